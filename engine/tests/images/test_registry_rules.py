"""`registry-rules`: the names that a rule matches, and the refusals. No request is sent to a registry before the check."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from tests.registry import image, layer
from tests.registry.fakes import drain, open_images
from tests.registry.hostile import serving

from orlop_engine import config_check
from orlop_engine.config import Config, RegistryRules
from orlop_engine.images.pull import PullRequest
from orlop_engine.images.references import parse
from orlop_engine.images.registry_rules import check_pull, check_push, matches, problems
from orlop_engine.images.transfers import PushRequest
from orlop_kernel.config import ConfigError, load, plan
from orlop_kernel.config.load import Loaded
from orlop_sdk import Forbidden

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("pattern", "name", "about"),
    [
        ("docker.io", "alpine", True),
        ("docker.io/library", "alpine", True),
        ("docker.io/library", "me/alpine", False),
        ("docker.io/library/alpine", "alpine:3", True),
        ("docker.io/library/alpine", "alpine-extra", False),
        ("docker.io/library/al*", "alpine", True),
        ("r.example/a", "r.example/a/b/c", True),
        ("r.example/a", "r.example/ab", False),
        ("r.example/*/c", "r.example/b/c", True),
        ("r.example/*/c", "r.example/b/b/c", False),
        ("r.example/a/b", "r.example/a", False),
        ("*.example", "r.example/a", True),
        ("*.example", "r.example.org/a", False),
        ("r.example", "r.example:5000/a", False),
        ("r.example:*", "r.example:5000/a", True),
        ("r.example", "r.example:443/a", True),
        ("r.example:443/a", "r.example/a", True),
        ("r.example", "R.Example/a", True),
        ("[::1]:5000", "[::1]:5000/a", True),
        ("*", "localhost/a", True),
    ],
)
def test_registry_rule_matches_repositories_below_its_pattern(pattern: str, name: str, about: bool) -> None:
    assert matches(pattern, parse(name)) is about
    assert not [*problems(RegistryRules(pull=(pattern,)))]


def test_error_about_a_forbidden_pull_or_push_contains_the_registry_rule() -> None:
    rules = RegistryRules(pull=("r.example", "docker.io"), push=(), digest_only=("docker.io", "r.example/a"))
    check_pull(rules, parse("r.example/b:1"))
    check_pull(rules, parse(f"alpine@{DIGEST}"))
    with pytest.raises(Forbidden) as caught:
        check_pull(rules, parse("other.example/b:1"))
    assert str(caught.value) == (
        'pulling other.example/b:1 is not allowed: "pull" of registry-rules in daemon.json allows only r.example, docker.io'
    )
    with pytest.raises(Forbidden) as caught:
        check_pull(rules, parse("r.example/a:1"))
    assert str(caught.value) == (
        'pulling r.example/a:1 is not allowed: the rule "r.example/a" in "digest-only" of registry-rules in '
        "daemon.json allows it by digest only, as in r.example/a@sha256:..."
    )
    with pytest.raises(Forbidden, match="the rule"):
        check_pull(rules, parse("alpine"))  # without a tag, the name means all tags
    with pytest.raises(Forbidden, match=r"allows nothing$"):
        check_push(rules, parse("r.example/b:1"))
    many = RegistryRules(pull=tuple(f"r{n}.example" for n in range(9)))
    with pytest.raises(Forbidden, match=r"r4\.example and 4 more$"):
        check_pull(many, parse("alpine"))
    check_pull(RegistryRules(), parse("alpine"))
    check_push(RegistryRules(), parse("alpine"))


@pytest.mark.parametrize(
    "pattern", ["", "alpine", "library/alpine", "R.example", "https://r.example", "r.example/", "r.e x"]
)
def test_invalid_registry_rules_are_refused(pattern: str) -> None:
    for rules in (
        RegistryRules(pull=(pattern,)),
        RegistryRules(push=("a.b", pattern)),
        RegistryRules(digest_only=(pattern,)),
    ):
        assert len([*problems(rules)]) == 1
        found = [one for one in config_check.problems(Config(registry_rules=rules)) if "registry-rules" in one.keys]
        assert len(found) == 1 and f'"{pattern}"' in found[0].text


@pytest.fixture
def servers() -> Iterator[list[str]]:
    with serving() as one, serving() as other:
        for server in (one, other):
            server.add("app", "v1", image([layer({"a": b"b"})]))
        yield [one.host, other.host]
        assert not other.requests, "asked although it is forbidden"


def test_no_request_is_sent_to_a_repository_that_registry_rules_refuse(tmp_path: Path, servers: list[str]) -> None:
    async def main() -> None:
        rules = RegistryRules(pull=(servers[0],))
        async with open_images(str(tmp_path), registry_rules=rules) as images:
            with pytest.raises(Forbidden, match="is not allowed"):
                await drain(images.images.pull(PullRequest(parse(f"{servers[1]}/app:v1"))))
            await drain(images.images.pull(PullRequest(parse(f"{servers[0]}/app:v1"))))
            assert images.images.resolve(f"{servers[0]}/app:v1")
            images.images.reconfigure(Config(registry_rules=RegistryRules(push=("r.example",))))
            await images.images.tag(f"{servers[0]}/app:v1", f"{servers[1]}/app", "v1")
            with pytest.raises(Forbidden, match=r"pushing .* is not allowed: .* allows only r\.example"):
                await drain(images.images.push(PushRequest(parse(f"{servers[1]}/app:v1"))))
            images.images.reconfigure(Config(registry_rules=RegistryRules(digest_only=("127.0.0.1:*",))))
            with pytest.raises(Forbidden, match="digest-only"):
                await drain(images.images.pull(PullRequest(parse(f"{servers[1]}/app:v1"))))

    trio.run(main)


def test_registry_rules_are_read_from_daemon_json(tmp_path: Path) -> None:
    path = tmp_path / "daemon.json"

    def loaded(text: str) -> Config:
        path.write_text(text)
        return Config.of(load(["--config-file", str(path)], {}))

    config = loaded('{"registry-rules": {"pull": [], "digest-only": ["docker.io"]}}')
    assert config.registry_rules == RegistryRules(pull=(), digest_only=("docker.io",))
    assert plan(Loaded(loaded("{}").daemon), Loaded(config.daemon)).applied == ("registry-rules",)
    with pytest.raises(ConfigError, match=r"registry-rules.*pul"):
        loaded('{"registry-rules": {"pul": []}}')
