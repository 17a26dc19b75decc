"""The API's routing: versions, errors, guards, hijacks."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from orlop_api_docker import API_VERSION
from orlop_api_docker.dialect import docker_router
from orlop_api_docker.errors import answer_error
from orlop_api_docker.responses import COMMON, empty, error_response, hijack_head, json_response, stream_head, stream_type
from orlop_kernel.http.messages import Answer, BodyError, Hijack, RawStream, Response, Streaming
from orlop_kernel.routing.call import Call
from orlop_kernel.routing.router import Route
from orlop_sdk import errors

from .calls import ask, call, message


async def describe(call: Call) -> Answer:
    return json_response({"route": call.pattern, "params": call.params, "version": call.version})


PATTERNS = [
    ("GET", "/_ping"),
    ("GET", "/containers/json"),
    ("GET", "/containers/{id}/json"),
    ("DELETE", "/containers/{id}"),
    ("DELETE", "/containers/{id}/checkpoints/{checkpoint}"),
    ("POST", "/containers/{id}/start"),
    ("GET", "/images/json"),
    ("GET", "/images/get"),
    ("GET", "/images/{name}/json"),
    ("GET", "/images/{name}/get"),
    ("DELETE", "/images/{name}"),
    ("GET", "/networks"),
    ("GET", "/networks/"),
    ("GET", "/networks/{id}"),
    ("GET", "/volumes/{name}"),
]
API = docker_router(
    [Route(method, pattern, describe) for method, pattern in PATTERNS] + [Route("GET", "/new", describe, (1, 42))]
)


@pytest.mark.parametrize(
    ("method", "path", "pattern", "params"),
    [
        ("GET", "/_ping", "/_ping", {}),
        ("GET", "/containers/json", "/containers/json", {}),
        ("GET", "/containers/abc/json", "/containers/{id}/json", {"id": "abc"}),
        ("GET", "/containers/json/json", "/containers/{id}/json", {"id": "json"}),
        ("DELETE", "/containers/json", "/containers/{id}", {"id": "json"}),
        ("DELETE", "/containers/a/b", "/containers/{id}", {"id": "a/b"}),
        (
            "DELETE",
            "/containers/a/checkpoints/c",
            "/containers/{id}/checkpoints/{checkpoint}",
            {"id": "a", "checkpoint": "c"},
        ),
        ("GET", "/images/reg.io:5000/a/b:1/json", "/images/{name}/json", {"name": "reg.io:5000/a/b:1"}),
        ("GET", "/images/a%2Fb/json", "/images/{name}/json", {"name": "a/b"}),
        ("GET", "/images/get/get", "/images/{name}/get", {"name": "get"}),
        ("DELETE", "/images/a/json", "/images/{name}", {"name": "a/json"}),
        ("GET", "/networks/", "/networks/", {}),
        ("GET", "/networks/n", "/networks/{id}", {"id": "n"}),
        ("GET", "/volumes/a%0Ab", "/volumes/{name}", {"name": "a\nb"}),
    ],
)
@pytest.mark.parametrize("prefix", ["", "/v1.43"])
def test_path_of_a_request_is_matched_to_a_route_and_its_parameters(
    method: str, path: str, pattern: str, params: dict[str, str], prefix: str
) -> None:
    answer = ask(API, method, prefix + path)
    assert isinstance(answer, Response)
    got = json.loads(answer.body)
    newest = [int(part) for part in API_VERSION.split(".")]
    assert (got["route"], got["params"], got["version"]) == (pattern, params, [1, 43] if prefix else newest)
    assert answer.headers[:4] == COMMON


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/nope"),
        ("GET", "/"),
        ("GET", "/v1.43"),
        ("GET", "/v1.43/nope"),
        ("GET", "/v9.9/nope"),
        ("POST", "/_ping"),
        ("FROB", "/_ping"),
        ("GET", "/containers//json"),
        ("GET", "/containers/a/nope"),
        ("GET", "/vx/_ping"),
        ("GET", "*"),
    ],
)
def test_requests_for_unknown_paths_return_404_page_not_found(method: str, path: str) -> None:
    answer = ask(API, method, path)
    assert message(answer) == (404, "page not found")
    assert isinstance(answer, Response)
    assert not set(COMMON) & set(answer.headers)


@pytest.mark.parametrize("path", ["/_ping", "/v1.43/x", "*", "/"])
def test_requests_with_method_options_return_an_empty_body(path: str) -> None:
    """Docker answers OPTIONS for each path, even for unknown paths."""
    answer = ask(API, "OPTIONS", path)
    assert isinstance(answer, Response)
    assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize(
    ("version", "text"),
    [
        (
            "1.20",
            "client version 1.20 is too old. Minimum supported API version is 1.24, "
            "please upgrade your client to a newer version",
        ),
        ("1.99", f"client version 1.99 is too new. Maximum supported API version is {API_VERSION}"),
        ("2.0", f"client version 2.0 is too new. Maximum supported API version is {API_VERSION}"),
    ],
)
def test_unsupported_api_versions_are_refused(version: str, text: str) -> None:
    answer = ask(API, "GET", f"/v{version}/_ping")
    assert message(answer) == (400, text)
    assert isinstance(answer, Response)
    assert answer.headers[:4] == COMMON


@pytest.mark.parametrize("version", [".", "...", "1", "1..", "0.0.0"])
def test_malformed_api_versions_are_refused_as_too_old(version: str) -> None:
    """Docker also answers that such a version is too old."""
    status, text = message(ask(API, "GET", f"/v{version}/_ping"))
    assert status == 400
    assert "is too old" in text


def test_route_is_refused_before_the_api_version_that_introduced_the_route() -> None:
    assert message(ask(API, "GET", "/v1.41/new")) == (400, "GET /v1.41/new requires minimum API version 1.42")
    assert isinstance(ask(API, "GET", "/v1.42/new"), Response)


def test_duplicate_routes_raise() -> None:
    for pattern in ("/a", "/a/{b}"):
        with pytest.raises(ValueError, match="two routes"):
            docker_router([Route("GET", pattern, describe)] * 2)


def raising(error: Exception) -> Answer:
    async def handler(call: Call) -> Answer:
        raise error

    return ask(docker_router([Route("GET", "/x", handler)]), "GET", "/x")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.InvalidParameter("m"), 400),
        (errors.Unauthorized("m"), 401),
        (errors.Forbidden("m"), 403),
        (errors.NotFound("m"), 404),
        (errors.Conflict("m"), 409),
        (errors.NotImplementedHere("m"), 501),
        (errors.Unavailable("m"), 503),
        (errors.DriverError("m"), 500),
        (errors.DeadlineExceeded("m"), 500),
        (BodyError(413, "m"), 413),
        (RuntimeError("m"), 500),
        (ExceptionGroup("g", [ExceptionGroup("h", [RuntimeError("other"), errors.Conflict("m")])]), 409),
    ],
)
def test_errors_become_answers(error: Exception, status: int) -> None:
    assert message(raising(error)) == (status, "m")


def test_answer_304_not_modified_has_no_body() -> None:
    answer = raising(errors.NotModified("m"))
    assert isinstance(answer, Response)
    assert (answer.status, answer.body) == (304, b"")


def test_unexpected_errors_are_logged_and_answered_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    assert message(raising(KeyError())) == (500, "KeyError")
    assert "Traceback" in caplog.text


def test_query_of_a_failed_request_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    target = "/v1.45/images/create?fromSrc=https://user:token@example.org/x"
    request = cast("Any", SimpleNamespace(method="POST", target=target))
    for error in (KeyError("x"), errors.DriverError("broken")):
        answer_error(request, error)
    assert caplog.text.count("cannot answer POST /v1.45/images/create") == 2
    assert "token" not in caplog.text


def test_invalid_utf8_in_error_messages_is_replaced_and_html_is_not_escaped() -> None:
    answer = raising(errors.NotFound("<no> & \udcff"))
    assert message(answer) == (404, "<no> & �")
    assert isinstance(answer, Response)
    assert b"<no> & " in answer.body


def test_common_headers_are_added_to_answers() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b""

    async def plain(call: Call) -> Answer:
        return Response(200, b"x", (("X", "y"),))

    async def streaming(call: Call) -> Answer:
        return Streaming(200, pieces(), (("X", "y"),))

    async def complete(call: Call) -> Answer:
        return stream_head(pieces(), "t", headers=(("X", "y"),))

    api = docker_router([Route("GET", "/p", plain), Route("GET", "/s", streaming), Route("GET", "/c", complete)])
    assert ask(api, "GET", "/p") == Response(200, b"x", (*COMMON, ("X", "y")))
    for path, headers in (("/s", (*COMMON, ("X", "y"))), ("/c", (*COMMON, ("Content-Type", "t"), ("X", "y")))):
        answer = ask(api, "GET", path)
        assert isinstance(answer, Streaming)
        assert answer.headers == headers


def test_guard_sees_the_call_and_can_refuse_it() -> None:
    seen: list[tuple[str, int]] = []
    reached = []

    async def handler(call: Call) -> Answer:
        reached.append(await call.json(dict[str, int]))
        return empty()

    async def guard(call: Call, proceed: Callable[[], Awaitable[Answer]]) -> Answer:
        if not call.pattern:
            seen.append(("nowhere", 0))
            return await proceed()
        body = await call.json(dict[str, int])
        if body["a"] != 1:
            return error_response(403, "not you")
        body["b"] = 2  # the handler gets the changed object
        answer = await proceed()
        assert isinstance(answer, Response)
        seen.append((call.pattern, answer.status))
        return answer

    def on_answer(call: Call, status: int, seconds: float) -> None:
        seen.append((call.pattern, status))
        assert seconds >= 0

    api = docker_router([Route("POST", "/x/{id}", handler)], guard=guard, on_answer=on_answer)
    headers = {"content-type": "application/json"}
    assert message(ask(api, "POST", "/x/1", b'{"a":2}', headers)) == (403, "not you")
    assert isinstance(ask(api, "POST", "/x/1", b'{"a":1}', headers), Response)
    assert message(ask(api, "POST", "/nowhere")) == (404, "page not found")
    assert seen == [("/x/{id}", 204), ("/x/{id}", 204), ("nowhere", 0)]
    assert reached == [{"a": 1, "b": 2}]
    api.guard = None
    ask(api, "POST", "/x/1", b'{"a":2}', headers)
    assert reached[-1] == {"a": 2}


def test_response_head_of_a_hijack_depends_on_upgrade_header_and_api_version() -> None:
    assert hijack_head(call(upgrade=True), False) == (
        b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.multiplexed-stream\r\n"
        b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
    )
    assert b"docker.raw-stream" in hijack_head(call(upgrade=True), True)
    assert b"docker.raw-stream" in hijack_head(call(upgrade=True, version=41), False)
    assert hijack_head(call(), False) == (b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\n")
    with_headers = hijack_head(call(), True, with_api_headers=True)
    assert f"Api-Version: {API_VERSION}\r\n".encode() in with_headers
    assert with_headers.endswith(b"\r\n\r\n")


def test_media_type_of_a_stream_depends_on_terminal_and_api_version() -> None:
    assert stream_type((1, 42), False) == "application/vnd.docker.multiplexed-stream"
    assert stream_type((1, 41), False) == stream_type((1, 42), True) == "application/vnd.docker.raw-stream"


def test_hijacked_request_is_reported_with_status_101() -> None:
    seen = []

    async def run(stream: RawStream) -> None:
        await stream.aclose()

    async def handler(c: Call) -> Answer:
        return Hijack(hijack_head(c, True), run)

    api = docker_router([Route("POST", "/x", handler)], on_answer=lambda c, status, seconds: seen.append(status))
    assert isinstance(ask(api, "POST", "/x"), Hijack)
    assert seen == [101]
