"""`hosts.toml`: its parser, the lines that errors name, and the resulting endpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from orlop_engine.images.endpoints import ALL, Endpoint, Outages
from orlop_engine.images.hosts_file import parse
from orlop_engine.images.references import parse as reference
from orlop_engine.images.registry_hosts import HostRules
from orlop_sdk import DriverError

FULL = """\
server = "https://registry.example.com"
capabilities = ["pull", "resolve", "push"]

[host."https://mirror.example.com/cache"]
  capabilities = ["pull"]
  ca = "mirror.crt"
  client = [["client.cert", "client.key"], ["/etc/both.pem", ""]]
  dial_timeout = "1.5s"
  proxy = "http://proxy:3128"
  [host."https://mirror.example.com/cache".header]
    x-one = "1"
    x-many = ["a", "b"]

[host."http://10.0.0.1:5000"]
  skip_verify = true

[host."https://harbor.example.com/v2/project"]
  override_path = true
"""


def test_all_keys_of_hosts_toml_are_read() -> None:
    found = parse(FULL, "/etc/certs.d/registry.example.com/hosts.toml")
    mirror, plain, harbor = found.hosts
    assert mirror.url == "https://mirror.example.com/cache"
    assert mirror.capabilities == {"pull"} and plain.capabilities == ALL
    assert mirror.ca == ("/etc/certs.d/registry.example.com/mirror.crt",)
    directory = "/etc/certs.d/registry.example.com"
    assert mirror.client == ((f"{directory}/client.cert", f"{directory}/client.key"), ("/etc/both.pem", "/etc/both.pem"))
    assert mirror.headers == (("x-one", "1"), ("x-many", "a"), ("x-many", "b"))
    assert (mirror.dial_timeout, mirror.proxy) == (1.5, "http://proxy:3128")
    assert plain.skip_verify and plain.url == "http://10.0.0.1:5000"
    assert harbor.override_path and harbor.url == "https://harbor.example.com/v2/project"
    assert found.server.url == "https://registry.example.com"


def test_host_urls_in_hosts_toml_are_normalized() -> None:
    def url(text: str) -> str:
        return parse(f'server = "{text}"', "/x/hosts.toml").server.url

    assert url("registry.example.com:5000") == "https://registry.example.com:5000"
    assert url("https://a/v2/") == url("https://a/v2") == url("https://a/") == "https://a"


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ('server = "https://a"\nskip_verfy = true', 2, 'unknown key "skip_verfy" (known keys are capabilities, ca, '),
        ('\n[host."https://b"]\n  skip_verify = "yes"', 3, "skip_verify: expected bool, got str"),
        ('[host."https://b"]\ncapabilities = [\n  "pull",\n  "fly",\n]', 2, "capabilities: invalid enum value 'fly'"),
        ('[host."ftp://b"]\nca = "x"', 1, '"ftp://b" is not an http:// or https:// URL'),
        ('server = "https://u:p@a"', 1, '"https://u:p@a" is not an http:// or https:// URL'),
        ("# x\nserver = 3", 2, "server: a URL is needed"),
        ("host = 1", 1, "host: tables are needed"),
        ('[host]\n"https://b" = 1', 2, 'host: "https://b" is not a table'),
        ('[host."https://b"]\nclient = [["a", "b", "c"]]', 2, "client: a path, or pairs"),
        ('[host."https://b"]\n\ndial_timeout = "soon"', 3, 'dial_timeout: "soon" is not a duration'),
        ('proxy = "socks5://p"', 1, 'proxy: "socks5://p" is not the URL of an HTTP proxy'),
        ('[host."https://b".header]\nx = 1', 1, "header: expected str | array, got int"),
        ('[host."https://b".header]\n"a b" = "1"', 2, 'header: "a b" is not an HTTP header'),
        ('[host."https://b".header]\na = "1\\r\\nb: 2"', 2, 'header: "a" is not an HTTP header'),
        ("server =", 1, "Invalid value"),
        ('server = "a"\nserver = "b"', 2, "Cannot overwrite a value"),
        ("a = " + "[" * 5000, 1, ""),
    ],
)
def test_errors_in_hosts_toml_contain_file_line_and_reason(text: str, line: int, what: str) -> None:
    with pytest.raises(DriverError) as caught:
        parse(text, "/etc/certs.d/a/hosts.toml")
    assert str(caught.value).startswith(f"/etc/certs.d/a/hosts.toml:{line}: {what}")


@given(st.text(max_size=200) | st.lists(st.sampled_from(FULL.split(" ")), max_size=20).map(" ".join))
def test_any_text_in_hosts_toml_is_parsed_or_refused_with_an_error(text: str) -> None:
    try:
        parse(text, "/x/hosts.toml")
    except DriverError as error:
        assert str(error).startswith("/x/hosts.toml:")


def endpoints(root: Path, name: str, **rules: tuple[str, ...]) -> list[Endpoint]:
    return trio.run(HostRules(certificates=(str(root / "a"), str(root / "b")), **rules).endpoints, reference(name))


def write(root: Path, directory: str, text: str) -> Path:
    path = root / directory / "hosts.toml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


def test_hosts_in_hosts_toml_precede_the_registry_itself(tmp_path: Path) -> None:
    write(tmp_path, "b/r.example:5000", '[host."https://m.example"]\ncapabilities = ["pull"]\n[host."http://n.example"]')
    mirror, plain, own = endpoints(tmp_path, "r.example:5000/a:1")
    assert (mirror.url, mirror.mirror, mirror.capabilities, mirror.verify) == ("https://m.example", True, {"pull"}, True)
    assert (plain.url, plain.verify) == ("http://n.example", False)
    assert (own.url, own.mirror, own.capabilities) == ("https://r.example:5000", False, ALL)
    assert mirror.at("/v2/a/tags/list") == "https://m.example/v2/a/tags/list?ns=r.example:5000"
    assert mirror.at("/v2/a/x?y=1").endswith("/v2/a/x?y=1&ns=r.example:5000")
    assert own.at("/v2/a/tags/list") == "https://r.example:5000/v2/a/tags/list"
    assert len(endpoints(tmp_path, "other.example/a:1")) == 1


def test_certificate_directories_of_a_registry_have_an_order_of_precedence(tmp_path: Path) -> None:
    """containerd's spelling has precedence over Docker's, the first root over the second, and any directory over
    `_default`."""
    write(tmp_path, "b/_default", 'server = "https://default.example"')
    assert [one.url for one in endpoints(tmp_path, "r.example:5/a")] == ["https://default.example"]
    (tmp_path / "b" / "r.example:5").mkdir()
    assert [one.url for one in endpoints(tmp_path, "r.example:5/a")] == ["https://r.example:5"], "certificates only"
    write(tmp_path, "b/r.example_5_", 'server = "https://second.example"')
    assert [one.url for one in endpoints(tmp_path, "r.example:5/a")] == ["https://second.example"]
    write(tmp_path, "a/r.example:5", 'server = "https://first.example"')
    assert [one.url for one in endpoints(tmp_path, "r.example:5/a")] == ["https://first.example"]
    assert [one.url for one in endpoints(tmp_path, "[::1]/a")] == ["https://default.example"]


def test_hosts_of_docker_hub_include_the_configured_registry_mirrors(tmp_path: Path) -> None:
    write(tmp_path, "a/docker.io", 'server = "https://docker.io"\n[host."https://m.example"]')
    first, second, hub = endpoints(tmp_path, "alpine", mirrors=("https://k.example",))
    assert (first.url, first.capabilities, first.namespace) == ("https://k.example", {"pull", "resolve"}, "")
    assert (second.url, second.namespace) == ("https://m.example", "docker.io")
    assert (hub.url, hub.mirror, hub.namespace) == ("https://registry-1.docker.io", False, "")


def test_server_key_in_hosts_toml_replaces_the_registry_except_for_logins(tmp_path: Path) -> None:
    """The `server` in the file is not the registry to which the credentials belong, so it is treated as a mirror. Logins use
    the registry."""
    write(tmp_path, "a/r.example", 'server = "https://s.example/v2"')
    (only,) = endpoints(tmp_path, "r.example/a")
    assert (only.url, only.mirror, only.namespace) == ("https://s.example", True, "r.example")
    rules = HostRules(certificates=(str(tmp_path / "a"),))
    assert [one.url for one in trio.run(rules.login_endpoints, reference("r.example/a"))] == ["https://r.example"]


def test_certificates_are_verified_except_with_skip_verify_or_on_loopback(tmp_path: Path) -> None:
    write(
        tmp_path,
        "a/r.example",
        """
        skip_verify = true
        [host."https://127.0.0.1:1"]
        [host."https://127.0.0.1:2"]
        ca = "x"
        [host."http://127.0.0.1:3"]
        ca = "x"
        [host."https://m.example"]
        skip_verify = true
        [host."https://n.example"]
        """,
    )
    assert [(one.url, one.verify) for one in endpoints(tmp_path, "r.example/a")] == [
        ("https://127.0.0.1:1", False),
        ("https://127.0.0.1:2", True),
        ("https://127.0.0.1:3", True),
        ("http://127.0.0.1:3", False),
        ("https://m.example", False),
        ("https://n.example", True),
        ("https://r.example", False),
    ]


def test_invalid_hosts_toml_affects_only_its_registry(tmp_path: Path) -> None:
    path = write(tmp_path, "a/r.example", "server = 1")
    with pytest.raises(DriverError, match=rf"^{path}:1: server: a URL is needed"):
        endpoints(tmp_path, "r.example/a")
    assert endpoints(tmp_path, "other.example/a")
    path.write_text("#" * (65 << 10))
    with pytest.raises(DriverError, match="larger than 64 KiB"):
        endpoints(tmp_path, "r.example/a")
    path.write_bytes(b"\xff")
    with pytest.raises(DriverError, match=rf"cannot use {path}: "):
        endpoints(tmp_path, "r.example/a")


def test_unreachable_host_is_skipped_for_a_while() -> None:
    async def main() -> None:
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, trio.testing.MockClock)
        outages, one = Outages(60), Endpoint("https://m", True, True)
        outages.record(one)
        clock.jump(59)
        assert outages.has(one) and not outages.has(Endpoint("https://n", True, True))
        clock.jump(2)
        assert not outages.has(one)
        outages.record(one)
        outages.clear(one)
        assert not outages.has(one)
        for n in range(2000):
            outages.record(Endpoint(f"https://{n}", True, True))
        assert len(outages._until) == 1000 and outages.has(Endpoint("https://1999", True, True))

    trio.run(main, clock=trio.testing.MockClock())
