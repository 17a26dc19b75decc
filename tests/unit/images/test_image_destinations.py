"""Destinations of a restricted client: the daemon connects neither to this host nor to its networks."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.registry import image, layer
from tests.registry.build import tar
from tests.registry.fakes import ImagesFixture, drain, open_images
from tests.registry.hostile import Hostile, redirect, replace, serving, status

from orlop_engine.config import Config
from orlop_engine.images import destinations, public_addresses
from orlop_engine.images.destinations import Destinations, for_registry
from orlop_engine.images.fetch import fetch
from orlop_engine.images.imports import ImportRequest
from orlop_engine.images.public_addresses import is_public
from orlop_engine.images.pull import PullRequest
from orlop_engine.images.references import parse
from orlop_engine.images.registry_auth import Credentials
from orlop_engine.images.registry_hosts import HostRules
from orlop_engine.system.login import check_login
from orlop_sdk import DriverError, Forbidden

APP = image([layer({"app": b"1"})])
LOOPBACK = [ipaddress.ip_network("127.0.0.1/32")]
REFUSED = "connecting to .*, which is neither public nor a configured registry,"


def no(what: str) -> Exception:
    return Forbidden(f"{what} no")


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.17.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
        *("224.0.0.1", "239.1.1.1", "255.255.255.255", "240.0.0.1", "192.0.2.1", "198.18.0.1"),
        *("::1", "::", "fe80::1", "fe80::1%eth0", "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1"),
        *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:a00:1::1", "::127.0.0.1", "fec0::1"),
    ],
)
def test_private_and_local_addresses_are_refused(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700:4700::1111", "64:ff9b::101:101", "::ffff:1.1.1.1"])
def test_public_addresses_are_allowed(address: str) -> None:
    assert is_public(address)


def test_addresses_of_this_host_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(public_addresses, "_is_own", lambda address: address == "1.1.1.1")
    assert not is_public("1.1.1.1")
    assert not is_public("::ffff:1.1.1.1")
    monkeypatch.undo()
    assert public_addresses._is_own("127.0.0.1")
    assert not public_addresses._is_own("1.1.1.1")


def test_configured_registries_and_mirrors_are_allowed_destinations(tmp_path: Path) -> None:
    rules = HostRules(("https://mirror.corp:5000/",), ("reg.corp", "own.corp:5000", "10.0.0.0/8"))
    (tmp_path / "certs.corp:443").mkdir()

    def known(host: str) -> bool:
        return for_registry(no, rules, host, [str(tmp_path)]) is None

    for host in ("registry-1.docker.io", "mirror.corp:5000", "reg.corp", "reg.corp:81", "own.corp:5000", "certs.corp:443"):
        assert known(host), host
    for host in ("mirror.corp", "own.corp", "certs.corp", "localhost:5000", "10.0.0.1", "other.corp"):
        assert not known(host), host
    assert for_registry(None, rules, "other.corp") is None, "nobody holds the client back"


def running(tmp_path: Path, check: Callable[[ImagesFixture, Hostile], Awaitable[None]], **config: Any) -> None:
    async def main() -> None:
        with serving() as server, trio.fail_after(30):
            server.add("app", "v1", APP)
            async with open_images(str(tmp_path), **config) as images:
                await check(images, server)

    trio.run(main)


async def pull(images: ImagesFixture, server: Hostile, host: str = "") -> None:
    await drain(images.images.pull(PullRequest(parse(f"{host or server.host}/app:v1"), refuse=no)))


def test_pull_from_a_private_address_is_refused(tmp_path: Path) -> None:
    async def check(images: ImagesFixture, server: Hostile) -> None:
        port = server.host.rpartition(":")[2]
        for host in ("", f"localhost:{port}", f"127.1.1.1:{port}"):
            with pytest.raises(Forbidden, match=REFUSED):
                await pull(images, server, host)
        assert server.requests == [], "it was never asked"

    running(tmp_path, check)


def test_pull_from_a_configured_private_registry_is_allowed(tmp_path: Path) -> None:
    async def check(images: ImagesFixture, server: Hostile) -> None:
        await pull(images, server)

    running(tmp_path, check, insecure_registries=["127.0.0.0/8"])


def test_redirect_or_token_service_on_a_private_address_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test makes the rules treat the registry's address as public. The registry refers to private addresses."""
    monkeypatch.setattr(destinations, "is_public", lambda address: address == "127.0.0.1")

    async def check(images: ImagesFixture, server: Hostile) -> None:
        with serving() as inside:
            inner = inside.host.replace("127.0.0.1", "127.0.0.2")
            server.misbehave("v1", redirect(f"http://{inner}/secret"))
            with pytest.raises(Forbidden, match=REFUSED):
                await pull(images, server)
            server.ping = status(401, "UNAUTHORIZED", WWW_Authenticate=f'Bearer realm="http://{inner}/token"')
            with pytest.raises(Forbidden, match=REFUSED):
                await pull(images, server)
            with pytest.raises(Forbidden, match=REFUSED):
                await check_login(Config(), inner, Credentials("u", "p"), no)
            assert inside.requests == []

    running(tmp_path, check)


def test_import_from_a_private_address_is_refused(tmp_path: Path) -> None:
    async def check(images: ImagesFixture, server: Hostile) -> None:
        for host in (server.host, server.host.replace("127.0.0.1", "localhost"), server.host.replace("127.0.0.1", "127.1")):
            request = ImportRequest(f"http://{host}/x.tar", refuse=no)
            with pytest.raises(Forbidden, match=REFUSED):
                await drain(await images.images.import_image(request, None))  # type: ignore[arg-type]
        assert server.requests == []
        assert images.is_empty()

    running(tmp_path, check, insecure_registries=["127.0.0.0/16"])  # allows pulls from the server, but no imports


def test_search_or_login_at_a_private_address_is_refused(tmp_path: Path) -> None:
    async def check(images: ImagesFixture, server: Hostile) -> None:
        with pytest.raises(Forbidden, match=REFUSED):
            await images.images.search(f"{server.host}/x", 0, {}, no)
        with pytest.raises(Forbidden, match=REFUSED):
            await check_login(Config(), server.host, Credentials("u", "p"), no)
        assert server.requests == []

    running(tmp_path, check)


async def fetched(url: str) -> bytes:
    async with fetch(url, Config().proxies, (), Destinations(no, LOOPBACK), lambda _: None) as pieces:
        return b"".join([piece async for piece in pieces])


def test_import_redirected_to_a_private_address_is_refused(tmp_path: Path) -> None:
    async def check(images: ImagesFixture, server: Hostile) -> None:
        server.misbehave("there", replace(b"content"))
        server.misbehave("here", redirect(f"http://{server.host}/there"))
        assert await fetched(f"http://{server.host}/here") == b"content"
        count = len(server.requests)
        server.misbehave("here", redirect(f"http://{server.host.replace('127.0.0.1', '127.0.0.2')}/there"))
        with pytest.raises(Forbidden, match=REFUSED):
            await fetched(f"http://{server.host}/here")
        assert len(server.requests) == count + 1
        for location in ("file:///etc/passwd", "http://[", "gopher://x/"):
            server.misbehave("here", redirect(location))
            with pytest.raises(DriverError, match="cannot follow its redirect"):
                await fetched(f"http://{server.host}/here")
        server.misbehave("here", *[redirect("/here")] * 10)
        with pytest.raises(DriverError, match="stopped after 10 redirects"):
            await fetched(f"http://{server.host}/here")

    running(tmp_path, check)


def test_daemon_connects_to_the_checked_address_without_a_second_dns_lookup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second lookup could give another address (DNS rebinding). The daemon uses the first address that answers."""

    async def resolve(name: str) -> list[str]:
        return {"name.invalid": ["127.0.0.2", "127.0.0.1"], "gone.invalid": []}[name]

    monkeypatch.setattr(destinations, "resolve", resolve)
    monkeypatch.setitem(globals(), "LOOPBACK", [ipaddress.ip_network("127.0.0.0/8")])

    async def check(images: ImagesFixture, server: Hostile) -> None:
        port = server.host.rpartition(":")[2]
        server.misbehave("x", replace(b"content"))
        assert await fetched(f"http://name.invalid:{port}/x") == b"content"
        assert server.requests[-1][2]["host"] == f"name.invalid:{port}"
        with pytest.raises(DriverError, match=r"dial tcp: lookup gone\.invalid: no such host"):
            await fetched(f"http://gone.invalid:{port}/x")

    running(tmp_path, check)


def test_error_message_does_not_contain_the_body_of_a_servers_error_answer(tmp_path: Path) -> None:
    """The client may not be able to reach the server itself, so it must not see the content of answers."""

    async def check(images: ImagesFixture, server: Hostile) -> None:
        server.misbehave("x.tar", status(403))
        with pytest.raises(DriverError) as caught:
            await drain(await images.images.import_image(ImportRequest(f"http://{server.host}/x.tar"), None))  # type: ignore[arg-type]
        assert str(caught.value) == f"failed to GET http://{server.host}/x.tar with status 403 Forbidden"
        server.ping = status(404)
        request = PullRequest(parse(f"{server.host}/app:v1"), credentials=Credentials("u", "p"))
        with pytest.raises(DriverError, match="error parsing HTTP 404 response body: it is not the error of a registry"):
            await drain(images.images.pull(request))

    running(tmp_path, check)


def test_import_from_a_public_address_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(destinations, "is_public", lambda address: address == "127.0.0.1")

    async def check(images: ImagesFixture, server: Hostile) -> None:
        server.misbehave("x.tar", replace(tar({"hi": b"there"})))
        await drain(await images.images.import_image(ImportRequest(f"http://{server.host}/x.tar", refuse=no), None))  # type: ignore[arg-type]
        assert len(images.images.all()) == 1

    running(tmp_path, check)
