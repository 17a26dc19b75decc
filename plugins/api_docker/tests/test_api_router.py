"""The API's routing: versions, parameters, JSON in and out, errors."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import SimpleNamespace
from typing import Any, Self, cast

import msgspec
import pytest
import trio

from orlop_api_docker import API_VERSION
from orlop_api_docker.decode import decode_json
from orlop_api_docker.dialect import docker_dialect, docker_router
from orlop_api_docker.errors import answer_error
from orlop_api_docker.responses import COMMON, empty, error_response, hijack_head, json_response, stream_head, stream_type
from orlop_engine.types import WireBase
from orlop_engine.types.containers import CreateRequest
from orlop_kernel.http.head import HeadParser
from orlop_kernel.http.messages import Answer, BodyError, Hijack, Limits, Peer, RawStream, Request, Response, Streaming
from orlop_kernel.routing.call import Call
from orlop_kernel.routing.router import Route, Router
from orlop_sdk import errors


class Body:
    """A request body that has already arrived."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    async def read(self, limit: int) -> bytes:
        if len(self.data) > limit:
            raise BodyError(413, "request body too large")
        data, self.data = self.data, b""
        return data

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        raise StopAsyncIteration


def request(method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Request:
    parsed = HeadParser(Limits()).parse(f"{method} {target} HTTP/1.1\r\nHost: d\r\n\r\n".encode())
    assert parsed
    head = parsed[0]
    return Request(head.method, head.target, head.path, head.query, headers or {}, Body(body), Peer("unix"))


def ask(api: Router, method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
    async def main() -> Answer:
        return await api(request(method, target, body, headers))

    return trio.run(main)


def message(answer: Answer) -> tuple[int, str]:
    assert isinstance(answer, Response)
    assert ("Content-Type", "application/json") in answer.headers
    assert answer.body.endswith(b"\n")
    return answer.status, json.loads(answer.body)["message"]


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
def test_routes(method: str, path: str, pattern: str, params: dict[str, str], prefix: str) -> None:
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
def test_page_not_found(method: str, path: str) -> None:
    answer = ask(API, method, path)
    assert message(answer) == (404, "page not found")
    assert isinstance(answer, Response)
    assert not set(COMMON) & set(answer.headers)


@pytest.mark.parametrize("path", ["/_ping", "/v1.43/x", "*", "/"])
def test_options_is_empty(path: str) -> None:
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
def test_unsupported_versions_are_refused(version: str, text: str) -> None:
    answer = ask(API, "GET", f"/v{version}/_ping")
    assert message(answer) == (400, text)
    assert isinstance(answer, Response)
    assert answer.headers[:4] == COMMON


@pytest.mark.parametrize("version", [".", "...", "1", "1..", "0.0.0"])
def test_odd_versions_are_too_old(version: str) -> None:
    status, text = message(ask(API, "GET", f"/v{version}/_ping"))
    assert status == 400
    assert "is too old" in text


def test_route_is_not_found_before_its_version() -> None:
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


def test_not_modified_has_no_body() -> None:
    answer = raising(errors.NotModified("m"))
    assert isinstance(answer, Response)
    assert (answer.status, answer.body) == (304, b"")


def test_unknown_errors_are_logged_and_no_traceback_leaves(caplog: pytest.LogCaptureFixture) -> None:
    assert message(raising(KeyError())) == (500, "KeyError")
    assert "Traceback" in caplog.text


def test_query_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    target = "/v1.45/images/create?fromSrc=https://user:token@example.org/x"
    request = cast("Any", SimpleNamespace(method="POST", target=target))
    for error in (KeyError("x"), errors.DriverError("broken")):
        answer_error(request, error)
    assert caplog.text.count("cannot answer POST /v1.45/images/create") == 2
    assert "token" not in caplog.text


def test_messages_may_name_what_is_no_utf8_and_no_html_is_escaped() -> None:
    answer = raising(errors.NotFound("<no> & \udcff"))
    assert message(answer) == (404, "<no> & �")
    assert isinstance(answer, Response)
    assert b"<no> & " in answer.body


def test_answers_without_the_common_headers_get_them() -> None:
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


def test_guard_gets_the_call_and_may_refuse_it() -> None:
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


def test_body_cannot_be_decoded_as_two_types() -> None:
    asked = call(body=b'{"a":1}', content_type="application/json")

    async def main() -> None:
        assert await asked.json(dict[str, int]) is await asked.json(dict[str, int])
        with pytest.raises(TypeError, match="was judged as dict"):
            await asked.json(list)

    trio.run(main)


def test_labels_of_a_scope_are_added_to_filters() -> None:
    asked = call('filters={"label":["a=1"],"name":["x"]}')
    asked.only = ("team=web",)
    assert asked.filters() == {"label": ["a=1", "team=web"], "name": ["x"]}
    bare = call()
    bare.only = ("team=web",)
    assert bare.filters() == {"label": ["team=web"]}


def call(query: str = "", body: bytes = b"", content_type: str = "", upgrade: bool = False, version: int = 51) -> Call:
    headers = ({"content-type": content_type} if content_type else {}) | ({"upgrade": "tcp"} if upgrade else {})
    return Call(request("GET", f"/x?{query}", body, headers), (1, version), {}, dialect=docker_dialect())


@pytest.mark.parametrize("text", ["", "0", "no", "FALSE", "none", "%20No%20"])
def test_false_flags(text: str) -> None:
    assert call(f"a={text}").flag("a", True) is False


@pytest.mark.parametrize("text", ["1", "true", "abc", "off", "2"])
def test_other_flags_are_true(text: str) -> None:
    assert call(f"a={text}").flag("a") is True


def test_parameters_that_are_absent() -> None:
    assert call().flag("a") is False
    assert call().flag("a", True) is True
    assert call().integer("a", -1) == -1
    assert call("a=").integer("a", 3) == 3
    assert call("a=1&a=2").args("a") == ["1", "2"]


def test_integers() -> None:
    assert [call(f"a={text}").integer("a") for text in ("7", "-7", "%2B7", "9223372036854775807")] == [7, -7, 7, 2**63 - 1]


@pytest.mark.parametrize("text", ["x", "1.5", "1_0", "+1", "-", "9223372036854775808", "%D9%A1", "9" * 5000])
def test_invalid_integers_are_refused(text: str) -> None:
    with pytest.raises(errors.InvalidParameter, match="a: "):
        call(f"a={text}").integer("a")


def test_no_body_is_an_empty_object_unless_one_is_required() -> None:
    async def main() -> None:
        assert await call().json(CreateRequest) == CreateRequest()
        with pytest.raises(errors.InvalidParameter, match="got EOF while reading request body"):
            await call().json(CreateRequest, required=True)
        asked = call()
        await asked.json(CreateRequest)  # as a policy does, which does not know whether a body is required
        with pytest.raises(errors.InvalidParameter, match="got EOF while reading request body"):
            await asked.json(CreateRequest, required=True)

    trio.run(main)


def test_sizes_of_terminals() -> None:
    assert call("h=-1&w=70000").terminal_size() == (-1, 70000)
    for query, words in (("h=x&w=1", 'parsing "x": invalid syntax'), ("h=1", 'parsing "": invalid syntax')):
        with pytest.raises(errors.InvalidParameter, match=words):
            call(query).terminal_size()


@pytest.mark.parametrize(
    ("text", "filters"),
    [
        ("", {}),
        ("{}", {}),
        ("null", {}),
        ('{"a":{"x":true,"y":true,"z":false}}', {"a": ["x", "y"]}),
        ('{"a":["x","x","y"],"b":null}', {"a": ["x", "y"], "b": []}),
    ],
)
def test_filters(text: str, filters: dict[str, list[str]]) -> None:
    assert call("filters=" + text.replace('"', "%22")).filters() == filters


@pytest.mark.parametrize("text", ["x", "[]", '{"a":1}', '{"a":"b"}', "{", "[" * 5000, "%ff"])
def test_bad_filters(text: str) -> None:
    with pytest.raises(errors.InvalidParameter, match=r"^invalid filter$"):
        call("filters=" + text.replace('"', "%22")).filters()


class Inner(WireBase):
    memory: int = 0
    names: list[str] = msgspec.field(default_factory=list)


class Outer(WireBase):
    image: str = ""
    host_config: Inner = msgspec.field(default_factory=Inner)
    endpoints: dict[str, Inner | None] = msgspec.field(default_factory=dict)
    labels: dict[str, str] | None = None
    extra: Any = None
    raw: msgspec.Raw = msgspec.Raw(b"")
    again: Outer | None = None


def read(c: Call, required: bool = True) -> Outer:
    async def main() -> Outer:
        return await c.json(Outer, required)

    return trio.run(main)


def test_json_bodies() -> None:
    got = read(
        call(body=b'{"Image":"i","HostConfig":{"Memory":5},"Unknown":1}', content_type="Application/JSON; charset=utf-8")
    )
    assert (got.image, got.host_config.memory) == ("i", 5)


def test_keys_in_any_case_and_null_for_absent() -> None:
    got = decode_json(
        b'{"IMAGE":null,"hostconfig":{"MEMORY":null,"Names":["a",null]},"endpoints":{"N":null,"m":{"memory":1}},'
        b'"labels":{"KeepCase":null},"extra":{"Any":null},"raw":{"x":1},"Again":{"image":"deep"}}',
        Outer,
    )
    assert got.image == ""
    assert got.host_config == Inner(names=["a", ""])
    assert got.endpoints == {"N": None, "m": Inner(memory=1)}
    assert got.labels == {"KeepCase": ""}
    assert got.extra == {"Any": None}
    assert bytes(got.raw) == b'{"x":1}'
    assert got.again is not None and got.again.image == "deep"
    assert decode_json(b"null", Outer) == Outer()
    assert decode_json(b"null", list[int]) == []


def test_an_exact_key_wins_over_another_case() -> None:
    class Both(WireBase):
        a: int = msgspec.field(name="x", default=0)
        b: int = msgspec.field(name="X", default=0)

    assert decode_json(b'{"x":1,"X":2}', Both) == Both(a=1, b=2)


def test_keys_fold_as_in_go() -> None:
    """encoding/json matches the long s and the Kelvin sign, and no other letter beyond ASCII."""
    assert decode_json('{"ho\u017ftConfig":{"Memory":5}}'.encode(), Outer).host_config.memory == 5

    class Stock(WireBase):
        stock: str = ""

    assert decode_json('{"\u017ftoc\u212a":"a"}'.encode(), Stock).stock == "a"
    assert decode_json('{"ﬁ":"a","ß":"b","İ":"c"}'.encode(), Stock) == Stock()


@pytest.mark.parametrize(
    ("body", "key"),
    [
        ('{"Image":"a","Image":"a"}', "Image"),
        ('{"Image":"a","image":"b"}', "image"),
        ('{"image":"a","Image":"b"}', "image"),
        ('{"image":"a","IMAGE":"b"}', "IMAGE"),
        ('{"Image":"a","image":null}', "image"),
        ('{"image":null,"IMAGE":null}', "IMAGE"),
        ('{"HostConfig":{"Memory":1},"ho\u017ftConfig":{"Memory":2}}', "ho\u017ftConfig"),
        ('{"HostConfig":{"Memory":1,"memory":2}}', "memory"),
        ('{"Im\\u0061ge":"a","Image":"b"}', "Image"),
        ('{"Labels":{"a":"1","a":"1"}}', "a"),
        ('{"Unknown":{"a":1,"b":[{"c":1,"c":2}]}}', "c"),
        ('{"Endpoints":{"n":{"Names":[]},"n":{"Memory":1}}}', "n"),
        ('{"Endpoints":{"n":{"Names":[],"names":[]}}}', "names"),
        ('{"a\\"":1,"a\\"":1}', 'a\\"'),
    ],
)
def test_a_key_that_comes_twice_is_refused(body: str, key: str) -> None:
    with pytest.raises(errors.InvalidParameter) as caught:
        decode_json(body.encode(), Outer)
    assert str(caught.value) == f'invalid JSON: duplicate key "{key}"'


def test_keys_of_maps_and_unknown_keys_differ_by_case() -> None:
    got = decode_json(b'{"Labels":{"a":"1","A":"2"},"Endpoints":{"n":null,"N":null},"x":1,"X":2}', Outer)
    assert got.labels == {"a": "1", "A": "2"}
    assert list(got.endpoints) == ["n", "N"]


@pytest.mark.parametrize("number", ["1.0", "1e3", "1E3", "0.0", "-1e0"])
def test_numbers_with_a_fraction_are_no_integers(number: str) -> None:
    with pytest.raises(errors.InvalidParameter, match=r"^invalid JSON: HostConfig.Memory: expected int, got float$"):
        decode_json(b'{"HostConfig":{"Memory":%b}}' % number.encode(), Outer)


def test_limit_of_large_bodies_counts_values() -> None:
    text = '",[{\\' * 100_000
    assert decode_json(json.dumps({"Image": text, "Labels": {"a": text}}).encode(), Outer).image == text
    for body in (b"[" + b"[]," * 50_001 + b"1]", b"[" + b'"",' * 50_001 + b"1]", b'{"a":' * 50_001):
        with pytest.raises(errors.InvalidParameter, match=r"^invalid JSON: more than 50000 values$"):
            decode_json(body, Outer)


@pytest.mark.parametrize("unit", [b'\\"', b'"', b"\\", b'"\\', b"[", b" "])
def test_size_check_of_a_body_takes_linear_time(unit: bytes) -> None:
    began = time.thread_time()
    with pytest.raises(errors.InvalidParameter):
        decode_json(b'{"' + b"," * 50_001 + unit * (2 << 20), Outer)
    assert time.thread_time() - began < 1


def test_a_missing_body() -> None:
    with pytest.raises(errors.InvalidParameter, match=r"^invalid JSON: got EOF while reading request body$"):
        read(call())
    assert read(call(), required=False) == Outer()
    assert read(call(content_type="application/json"), required=False) == Outer()


@pytest.mark.parametrize(
    ("content_type", "text"),
    [
        ("text/plain", "unsupported Content-Type header (text/plain): must be 'application/json'"),
        ("", "malformed Content-Type header (): mime: no media type"),
    ],
)
def test_content_types(content_type: str, text: str) -> None:
    with pytest.raises(errors.InvalidParameter) as caught:
        read(call(body=b"{}", content_type=content_type))
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"  ", "invalid JSON: got EOF while reading request body"),
        (b'{"Image":"x"', "invalid JSON: unexpected EOF"),
        (b"{} {}", "unexpected content after JSON"),
        (b"{,}", "invalid JSON: object keys must be strings (byte 1)"),
        (b"[" * 40_000, "invalid JSON: nested too deeply"),
        (b"[]", "invalid JSON: expected object, got array"),
        (b'{"Image":1}', "invalid JSON: Image: expected str, got int"),
        (b'{"hostconfig":{"memory":"1"}}', "invalid JSON: HostConfig.Memory: expected int, got str"),
        (b'{"HostConfig":{"Names":["a",2]}}', "invalid JSON: HostConfig.Names[1]: expected str, got int"),
        (b'{"HostConfig":{"Memory":1.5}}', "invalid JSON: HostConfig.Memory: expected int, got float"),
        (b'{"HostConfig":{"Memory":' + b"9" * 5000 + b"}}", "invalid JSON: HostConfig.Memory: does not fit into 64 bits"),
        (b'{"Image":"a","x":NaN}', "invalid JSON: invalid character (byte 17)"),
        (b'{"Image":"a","x":1e999}', "invalid JSON: Number out of range"),
        (b'\xef\xbb\xbf{"Image":"a"}', "invalid JSON: invalid character (byte 0)"),
        (b'{"Image":"\\udc00"}', "invalid JSON: invalid utf-16 surrogate pair (byte 16)"),
        (b'{"Image":"a","extra":' + b"[" * 9_999 + b"]" * 9_999 + b"}", "invalid JSON: nested too deeply"),
        (b'{"HostConfig":{"Memory":9223372036854775808}}', "invalid JSON: HostConfig.Memory: does not fit into 64 bits"),
        (b'{"HostConfig":{"Memory":99999999999999999999}}', "invalid JSON: HostConfig.Memory: does not fit into 64 bits"),
    ],
)
def test_bad_json(body: bytes, text: str) -> None:
    with pytest.raises(errors.InvalidParameter) as caught:
        decode_json(body, Outer)
    assert str(caught.value) == text


def test_json_that_is_not_utf8() -> None:
    for body in (b"\xff", b'{"Image":"\xff"}', b'{"Image":"\\ud800"}'):
        with pytest.raises(errors.InvalidParameter, match="invalid JSON"):
            decode_json(body, Outer)


def test_a_body_that_is_too_large() -> None:
    async def main() -> None:
        with pytest.raises(BodyError):
            await call(body=b"x" * 11, content_type="application/json").json_bytes(10)

    trio.run(main)


def test_hijack_heads() -> None:
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


def test_stream_types() -> None:
    assert stream_type((1, 42), False) == "application/vnd.docker.multiplexed-stream"
    assert stream_type((1, 41), False) == stream_type((1, 42), True) == "application/vnd.docker.raw-stream"


def test_hijack_is_counted_with_status_101() -> None:
    seen = []

    async def run(stream: RawStream) -> None:
        await stream.aclose()

    async def handler(c: Call) -> Answer:
        return Hijack(hijack_head(c, True), run)

    api = docker_router([Route("POST", "/x", handler)], on_answer=lambda c, status, seconds: seen.append(status))
    assert isinstance(ask(api, "POST", "/x"), Hijack)
    assert seen == [101]


def test_length_of_lists_maps_and_strings_is_limited() -> None:
    for body, text in (
        ({"HostConfig": {"Names": ["a"] * 10_001}}, "HostConfig.Names: has more than 10000 elements"),
        ({"Labels": {str(number): "" for number in range(10_001)}}, "Labels: has more than 10000 elements"),
        ({"Image": "x" * (1 << 20) + "y"}, "Image: has more than 1048576 characters"),
        ({"Labels": {"a": "x" * (1 << 20) + "y"}}, "Labels: has more than 1048576 characters"),
    ):
        with pytest.raises(errors.InvalidParameter) as caught:
            decode_json(json.dumps(body).encode(), Outer)
        assert str(caught.value) == f"invalid JSON: {text}"
    assert decode_json(json.dumps({"HostConfig": {"Names": ["a"] * 10_000}}).encode(), Outer).host_config.names


def test_number_of_filter_values_is_limited() -> None:
    def filters(count: int) -> dict[str, list[str]]:
        wanted = json.dumps({"label": [f"l{number}" for number in range(count)]}, separators=(",", ":"))
        return call(f"filters={wanted}").filters()

    assert len(filters(256)["label"]) == 256
    with pytest.raises(errors.InvalidParameter, match=r"^invalid filter 'label': more than 256 values$"):
        filters(257)
