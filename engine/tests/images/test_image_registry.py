"""The registry client's rules, without a registry: challenges, credentials, errors, hosts, proxies."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from orlop_engine.config import Proxies
from orlop_engine.images import connector, registry_hosts
from orlop_engine.images import registry_auth as auth
from orlop_engine.images.endpoints import Endpoint
from orlop_engine.images.references import parse
from orlop_engine.images.registry import Registry
from orlop_engine.images.registry_errors import RegistryError, explain_os_error, from_answer, retry_after, translate
from orlop_engine.images.registry_hosts import HostRules, Timeouts, proxy_for
from orlop_engine.images.registry_push import PushRegistry
from orlop_engine.images.registry_tls import tls_context
from orlop_sdk import DriverError, InvalidParameter, NotFound, Unauthorized


def encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


def test_credentials_are_decoded_with_and_without_padding() -> None:
    header = encoded({"username": "u", "password": "p?>", "serveraddress": "x"})
    other = encoded({"username": "other", "password": "secret"})
    for text in (header, header.rstrip("="), f"{header}, {other}"):  # as in Go, the first of two headers is used
        found = auth.credentials(text)
        assert (found.username, found.password) == ("u", "p?>")
    assert base64.b64decode(found.basic.removeprefix("Basic ")) == b"u:p?>"
    assert "p?>" not in repr(found)


@pytest.mark.parametrize("header", ["", "!!!", "bm8", encoded([]), encoded({"username": 3})])
def test_invalid_credentials_are_ignored(header: str) -> None:
    assert auth.credentials(header) == auth.ANONYMOUS
    assert auth.credentials(header).basic == ""


def test_challenges_are_parsed() -> None:
    found = auth.challenges('Bearer realm="https://a/token?x=1,2",service="s \\"q\\"",scope="a:b:pull,push", Basic realm=x')
    assert [one.scheme for one in found] == ["bearer", "basic"]
    assert found[0].parameters == {"realm": "https://a/token?x=1,2", "service": 's "q"', "scope": "a:b:pull,push"}
    assert found[1].parameters == {"realm": "x"}


@given(st.text(max_size=200))
def test_any_challenge_header_is_parsed_without_an_exception(text: str) -> None:
    auth.challenges(text)


def test_token_requests_are_encoded_and_token_answers_are_decoded() -> None:
    url = auth.token_url("https://a/t?k=v", "svc", ["repository:x/y:pull"], "me")
    assert url == "https://a/t?k=v&account=me&scope=repository%3Ax%2Fy%3Apull&service=svc"
    assert b"grant_type=refresh_token&refresh_token=r" in auth.token_form("s", ["x"], "r")
    token = auth.read_token(b'{"access_token":"t","expires_in":300}')
    assert token is not None and (token.value, token.lifetime) == ("t", 300)
    short = auth.read_token(b'{"token":"t","expires_in":1}')
    assert short is not None and short.lifetime == 60
    for bad in (b"{}", b"x", b'{"token":"a\\nb"}', b'{"token":3}'):
        assert auth.read_token(bad) is None


NAME = parse("127.0.0.1:5000/a/b:c")


@pytest.mark.parametrize(
    ("code", "kind", "text"),
    [
        ("DENIED", NotFound, "pull access denied for 127.0.0.1:5000/a/b, repository does not exist or may require "),
        ("MANIFEST_UNKNOWN", NotFound, "manifest for 127.0.0.1:5000/a/b:c not found: manifest unknown: why"),
        ("NAME_UNKNOWN", NotFound, "repository 127.0.0.1:5000/a/b not found: name unknown: why"),
        ("UNAUTHORIZED", Unauthorized, "unauthorized: why"),
        ("TOOMANYREQUESTS", DriverError, "toomanyrequests: why"),
    ],
)
def test_error_code_in_a_registrys_answer_selects_the_error_type(code: str, kind: type[Exception], text: str) -> None:
    body = json.dumps({"errors": [{"code": code, "message": "why", "detail": {"x": 1}}]}).encode()
    error = from_answer(404, body)
    assert not error.retry
    told = translate(error, NAME)
    assert type(told) in (kind, RegistryError) and isinstance(told, kind)
    assert str(told).startswith(text)


def test_error_answers_without_a_registry_error_code_get_a_message() -> None:
    assert str(from_answer(500, b"oops")) == "received unexpected HTTP status: 500 Internal Server Error"
    assert from_answer(503, b"").retry
    assert str(from_answer(401, b"<html>")) == "unauthorized: authentication required"
    assert str(from_answer(429, b'{"details":"slow down"}')) == "toomanyrequests: slow down"
    assert str(from_answer(400, b"<html>")) == "error parsing HTTP 400 response body: it is not the error of a registry"
    assert len(str(from_answer(400, b"x" * 100_000))) < 1000
    scope = 'Bearer realm="r",error="insufficient_scope"'
    assert str(from_answer(401, b"", scope)) == "denied: requested access to the resource is denied"


def test_error_about_a_failed_connection_contains_the_reason() -> None:
    try:
        try:
            raise ConnectionRefusedError(111, "x")
        except OSError as error:
            raise ExceptionGroup("all attempts", [error]) from None
    except ExceptionGroup as group:
        refused = explain_os_error(group, "::1", 443)
    assert refused == "dial tcp [::1]:443: connect: connection refused"
    plain = ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number")
    plain.reason = "WRONG_VERSION_NUMBER"
    assert explain_os_error(plain, "h", 1) == "http: server gave HTTP response to HTTPS client"
    assert explain_os_error(ValueError("odd"), "h", 1) == "odd"


def endpoints(name: str, **rules: tuple[str, ...]) -> list[tuple[str, bool, bool]]:
    async def main() -> list[tuple[str, bool, bool]]:
        found = await HostRules(**rules).endpoints(parse(name))
        return [(one.url, one.verify, one.mirror) for one in found]

    return trio.run(main)


def test_endpoints_depend_on_the_registry_mirrors_and_insecure_registries() -> None:
    hub = ("https://registry-1.docker.io", True, False)
    assert endpoints("alpine") == [hub]
    assert endpoints("alpine", mirrors=("http://127.0.0.1:1/",)) == [("http://127.0.0.1:1", False, True), hub]
    assert endpoints("192.0.2.1/a", mirrors=("http://127.0.0.1:1/",)) == [("https://192.0.2.1", True, False)]
    plain = [("https://127.0.0.9:5000", False, False), ("http://127.0.0.9:5000", False, False)]
    assert endpoints("127.0.0.9:5000/a") == plain
    assert endpoints("[::1]:5/a")[1][0] == "http://[::1]:5"
    for entry in ("192.0.2.1:5000", "192.0.2.1", "192.0.2.0/24"):
        assert len(endpoints("192.0.2.1:5000/a", insecure=(entry,))) == 2
    assert len(endpoints("192.0.2.1:5001/a", insecure=("192.0.2.1:5000", "198.51.100.0/24"))) == 1


def test_plain_http_is_used_only_if_every_address_is_in_an_insecure_range(monkeypatch: pytest.MonkeyPatch) -> None:
    async def forged(name: str) -> list[str]:
        return ["127.0.0.1", "203.0.113.9"]

    monkeypatch.setattr(registry_hosts, "resolve", forged)
    assert endpoints("registry.corp.example/a") == [("https://registry.corp.example", True, False)]
    assert len(endpoints("registry.corp.example/a", insecure=("203.0.113.0/24",))) == 1  # one address is outside
    assert len(endpoints("registry.corp.example/a", insecure=("203.0.113.0/24", "127.0.0.0/8"))) == 2
    assert len(endpoints("localhost:5000/a")) == 2


@pytest.mark.parametrize(
    ("server", "url", "own"),
    [
        ("https://index.docker.io/v1/", "http://mirror.lan:5000", False),
        ("https://index.docker.io/v1/", "https://mirror.lan:5000", False),
        ("mirror.lan:5000", "https://mirror.lan:5000", True),
        ("https://mirror.lan:5000", "https://mirror.lan:5000", True),
        ("mirror.lan:5000", "http://mirror.lan:5000", False),
        ("", "https://mirror.lan:5000", False),
    ],
)
def test_mirror_gets_no_credentials_of_other_registries(server: str, url: str, own: bool) -> None:
    sent = auth.Credentials("u", "p", server=server)
    assert connector._credentials_match(sent, Endpoint(url, True, mirror=True)) is own
    assert connector._credentials_match(sent, Endpoint("https://registry-1.docker.io", True))


def test_proxy_is_chosen_by_url() -> None:
    proxies = Proxies(http_proxy="http://p:1", https_proxy="q:2", no_proxy="skip.io, .corp, 10.0.0.0/8")
    assert proxy_for("http://a.io/v2/", proxies) == "http://p:1"
    assert proxy_for("https://a.io/v2/", proxies) == "http://q:2"
    for url in ("http://127.0.0.1:5000/", "http://localhost/", "https://skip.io/", "https://x.corp/", "http://10.1.2.3/"):
        assert proxy_for(url, proxies) is None
    assert proxy_for("https://notskip.io/", proxies) is not None
    assert proxy_for("https://a.io/", Proxies(https_proxy="q:2", no_proxy="*")) is None


def test_client_certificate_without_a_key_or_key_without_a_certificate_is_refused(tmp_path: Path) -> None:
    (tmp_path / "h:1").mkdir()
    (tmp_path / "h:1" / "client.cert").write_text("x")
    with pytest.raises(InvalidParameter, match=r"missing key client.key for client certificate client.cert"):
        tls_context("h:1", True, (str(tmp_path),))
    (tmp_path / "h:1" / "client.cert").rename(tmp_path / "h:1" / "client.key")
    with pytest.raises(InvalidParameter, match="missing client certificate"):
        tls_context("h:1", True, (str(tmp_path),))
    (tmp_path / "h:1" / "client.key").rename(tmp_path / "h:1" / "ca.crt")
    with pytest.raises(InvalidParameter, match="cannot read certificates in"):
        tls_context("h:1", True, (str(tmp_path),))


@pytest.mark.parametrize(
    ("page", "pages"), [(b'{"tags":["' + b"x" * (1 << 20) + b'"]}', 10), (b'{"tags":["x"]}', 2000), (b'{"tags":["x"]}', 3)]
)
def test_tag_list_with_too_many_bytes_or_pages_is_refused(monkeypatch: pytest.MonkeyPatch, page: bytes, pages: int) -> None:
    asked: list[str] = []

    @asynccontextmanager
    async def request(registry: Registry, method: str, path: str, headers: dict[str, str]) -> AsyncIterator[httpx.Response]:
        asked.append(path)
        link = {"link": f'</v2/a/b/tags/list?last={len(asked)}>; rel="next"'} if len(asked) < pages else {}
        yield httpx.Response(200, headers=link)

    async def body(registry: Registry, *of: object) -> bytes:
        return page

    monkeypatch.setattr(Registry, "request", request)
    monkeypatch.setattr(Registry, "read_body", body)
    registry = Registry(Endpoint("http://127.0.0.1:5000", False), "a/b", auth.ANONYMOUS, Timeouts())
    if pages == 3:
        assert trio.run(registry.tags) == ["x"] * 3
        return
    with pytest.raises(DriverError, match=r"^cannot read tags of a/b: its list is longer than 8 MiB or 1000 pages$"):
        trio.run(registry.tags)
    assert len(asked) <= 1000


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/v2/x?state=1", "https://r.lan/v2/x?state=1"),
        ("up/2", "https://r.lan/v2/a/b/blobs/up/2"),
        ("https://storage.lan/x", "https://storage.lan/x"),
        ("http://r.lan/x", "refusing a redirect from TLS to plain HTTP"),
        ("file:///etc/passwd", 'unsupported protocol scheme "file"'),
        ("unix:///run/orlop.sock", 'unsupported protocol scheme "unix"'),
    ],
)
def test_only_safe_upload_locations_are_allowed(location: str, expected: str) -> None:
    registry = PushRegistry(Endpoint("https://r.lan", True), "a/b", auth.ANONYMOUS, Timeouts())
    url = "https://r.lan/v2/a/b/blobs/uploads"
    if expected.startswith("https:"):
        assert registry.target("POST", url, location) == expected
        return
    with pytest.raises(RegistryError, match=expected):
        registry.target("POST", url, location)


@pytest.mark.parametrize(("text", "seconds"), [("7", 7.0), ("", None), ("-1", None), ("1e3", None), ("9" * 30, None)])
def test_retry_after_header_is_parsed(text: str, seconds: float | None) -> None:
    assert retry_after(text) == seconds
