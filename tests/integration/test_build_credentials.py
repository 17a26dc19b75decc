"""Registries that require credentials: the credentials of the client's session are used for base images and pushes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.engine import Engine
from tests.integration.parity import Side
from tests.integration.test_build_clients import Client, Clients
from tests.registry.tokens import PASSWORD, USER, with_password, with_tokens

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]


@pytest.fixture
def both(shared: Engine, sides: tuple[Side, Side], tmp_path: Path) -> Iterator[Clients]:
    """Clients with dockerd and with Orlop, with a configuration of their own."""
    made = []
    for side in sides:
        (tmp_path / side.name).mkdir()
        client = Client(side, {**shared.env, "DOCKER_CONFIG": str(tmp_path / f"{side.name}-config")}, tmp_path / side.name)
        made.append(client)
    yield Clients(*made)


def _prepare(client: Client, host: str) -> str:
    """Push busybox to a registry, and remove it from the daemon. Returns its name at the registry."""
    name = f"{host}/private/base:1"
    client.ok("login", "-u", USER, "--password-stdin", host, stdin=PASSWORD.encode())
    client.ok("tag", "busybox", name)
    client.ok("push", "-q", name)
    client.ok("image", "rm", name)
    return name


def _pull_and_push(both: Clients, host: str) -> None:
    name = _prepare(both.orlop, host)
    both.write("Dockerfile", f"FROM {name}\nRUN echo from a private base > /made\n")
    for each in both:
        each.run("logout", host)
        # Both daemons have the layers of busybox, so they request only its manifest from the registry
        refused = each.build("--pull", "-t", "tb-private", ".")
        assert refused.code != 0, each.name
        assert name in refused.err
        each.ok("login", "-u", USER, "--password-stdin", host, stdin=PASSWORD.encode())
        result = each.build("--pull", "--no-cache", "-t", "tb-private", ".")
        assert result.code == 0, f"{each.name}: {result.err}"
        assert f"load metadata for {name}" in result.err
        each.run("image", "rm", "-f", "tb-private", name)
    orlop = both.orlop
    pushed = f"{host}/private/made:1"
    result = orlop.run("buildx", "build", "--progress=plain", "-t", pushed, "--push", "--provenance=false", ".")
    assert result.code == 0, result.err
    assert "pushing layers" in result.err
    orlop.ok("image", "rm", "-f", pushed)
    orlop.run("logout", host)
    again = orlop.run("buildx", "build", "-t", f"{host}/private/other:1", "--push", ".")
    assert again.code != 0
    assert "no basic auth credentials" in again.err or "denied" in again.err or "unauthorized" in again.err


def test_build_uses_the_password_of_a_registry(both: Clients, tmp_path: Path) -> None:
    with with_password(tmp_path) as registry:
        _pull_and_push(both, registry.host)


def test_build_uses_the_token_service_of_a_registry(both: Clients, tmp_path: Path) -> None:
    with with_tokens(tmp_path) as (registry, service):
        _pull_and_push(both, registry.host)
        assert (USER, ["repository:private/made:pull,push"]) in [(user, sorted(scopes)) for user, scopes in service.asked]


@pytest.mark.parametrize("by_client", [True, False])
def test_daemon_requests_registry_tokens_only_if_the_client_does_not(both: Clients, tmp_path: Path, by_client: bool) -> None:
    """If the client requests the token, the daemon does not see the client's password."""
    with with_tokens(tmp_path) as (registry, service):
        orlop = both.orlop
        orlop.env["BUILDKIT_NO_CLIENT_TOKEN"] = "" if by_client else "1"
        name = _prepare(orlop, registry.host)
        (orlop.directory / "Dockerfile").write_text(f"FROM {name}\nCOPY Dockerfile /\n")
        service.agents.clear()
        service.asked.clear()
        orlop.ok("build", "--pull", "-t", f"{registry.host}/private/made:1", "--provenance=false", "--push", ".")
        assert {user for user, _ in service.asked} == {USER}
        asked = {
            (scope, agent == "orlop")
            for agent, (_, scopes) in zip(service.agents, service.asked, strict=True)
            for scope in scopes
        }
        assert ("repository:private/base:pull", by_client) not in asked
        # buildx pushes the image once more, by the Engine API with a password
        assert (("repository:private/made:pull,push", False) in asked) == by_client
        orlop.run("image", "rm", "-f", f"{registry.host}/private/made:1")
        orlop.run("logout", registry.host)
        anonymous = orlop.build("--pull", ".")
        assert anonymous.code != 0
        assert name in anonymous.err


def test_build_shows_the_download_of_base_layers(both: Clients, tmp_path: Path) -> None:
    """None of the base's layers is stored in the daemon."""
    (both.orlop.directory / "large").write_bytes(os.urandom(10_240_000))
    both.write("Dockerfile", "FROM scratch\nCOPY large /\n")
    with with_tokens(tmp_path) as (registry, _):
        name = f"{registry.host}/private/large:1"
        orlop = both.orlop
        orlop.ok("login", "-u", USER, "--password-stdin", registry.host, stdin=PASSWORD.encode())
        orlop.ok("buildx", "build", "-t", name, "--push", "--provenance=false", ".")
        orlop.ok("image", "rm", "-f", name)
        orlop.ok("builder", "prune", "-af")
        both.write("Dockerfile", f"FROM {name}\nCOPY Dockerfile /\n")
        result = orlop.build("-t", "tb-large", ".")
        assert result.code == 0, result.err
        assert re.search(r"^#\d+ [0-9a-f]{12} .*done$", result.err, re.MULTILINE), result.err
        orlop.ok("image", "rm", "-f", "tb-large", name)
