"""Request heads that the parser accepts, and the HTTP status with which the parser refuses other heads."""

from __future__ import annotations

import pytest

from orlop_kernel.http.head import BadRequest, Head, HeadParser
from orlop_kernel.http.messages import Limits

LIMITS = Limits(head=4096, headers=8)


def parse(data: bytes) -> Head:
    parsed = HeadParser(LIMITS).parse(data)
    assert parsed is not None
    return parsed[0]


def get(target: str, headers: str = "") -> Head:
    return parse(f"GET {target} HTTP/1.1\r\nHost: d\r\n{headers}\r\n".encode())


def refused(data: bytes) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        HeadParser(LIMITS).parse(data)
    return caught.value


def test_parser_finds_the_end_of_a_request_head_and_leaves_the_following_bytes() -> None:
    head = b"POST /a HTTP/1.1\r\nHost: d\r\nContent-Length: 3\r\n\r\n"
    parsed = HeadParser(LIMITS).parse(head + b"abcGET / HTTP/1.1\r\n")
    assert parsed is not None
    assert parsed[1] == len(head)
    assert (parsed[0].method, parsed[0].path, parsed[0].length) == ("POST", "/a", 3)


def test_header_names_become_lower_case_and_values_are_trimmed_and_joined() -> None:
    head = get("/", "X-A: 1 \t\r\nx-a:2\r\nEmpty:\r\n")
    assert head.headers == {"host": "d", "x-a": "1, 2", "empty": ""}


def test_paths_and_queries_are_decoded() -> None:
    head = get("/images/a%2Fb/json?name=x+y%2Bz&name=2&flag&e=&f=a%3Db=c")
    assert head.path == "/images/a/b/json"
    assert head.query == {"name": ["x y+z", "2"], "flag": [""], "e": [""], "f": ["a=b=c"]}


def test_query_values_that_are_not_utf8_are_kept() -> None:
    assert get("/x?path=%ff").query["path"][0].encode("utf-8", "surrogateescape") == b"\xff"


@pytest.mark.parametrize(
    ("target", "path"),
    [("http://docker/_ping?a=1", "/_ping"), ("http://docker", "/"), ("http://docker?x", "/"), ("*", "*")],
)
def test_path_is_parsed_from_every_form_of_request_target(target: str, path: str) -> None:
    assert get(target).path == path


def test_request_with_an_invalid_escape_in_its_query_is_parsed_and_has_a_query_error() -> None:
    assert get("/x?a=%zz").query_error == 'invalid URL escape "%zz"'
    assert get("/x?a=%4").query_error == 'invalid URL escape "%4"'


def test_semicolon_is_no_separator_in_queries() -> None:
    """Go's url.Query drops a pair with ";", and Go's server refuses it. Authorization plugins are written in Go, and must
    see all parameters that the daemon uses."""
    assert get("/x?force=1;a").query_error == "invalid semicolon separator in query"
    assert get("/x?force=1%3Ba").query == {"force": ["1;a"]}


@pytest.mark.parametrize("target", ["/#a", "/containers/a?v=0#&force=1", "http://docker/_ping#x"])
def test_target_with_a_fragment_is_refused(target: str) -> None:
    assert str(refused(f"GET {target} HTTP/1.1\r\nHost: d\r\n\r\n".encode())) == "malformed request target"


def test_unknown_methods_are_passed_to_the_handler() -> None:
    head = parse(b"FROB /x HTTP/1.1\r\nHost: d\r\nContent-Length: 2\r\n\r\n")
    assert (head.method, head.length) == ("FROB", 2)


@pytest.mark.parametrize(
    ("version", "connection", "keep"),
    [
        ("1.1", "", True),
        ("1.1", "close", False),
        ("1.1", "foo, Close", False),
        ("1.1", "close, keep-alive", False),
        ("1.0", "", False),
        ("1.0", "Keep-Alive", True),
    ],
)
def test_http_version_and_connection_header_determine_keep_alive(version: str, connection: str, keep: bool) -> None:
    line = f"Connection: {connection}\r\n" if connection else ""
    assert parse(f"GET / HTTP/{version}\r\nHost: d\r\n{line}\r\n".encode()).keep_alive is keep


def test_expect_header_is_ignored_without_a_body_and_in_http_1_0() -> None:
    def expects(version: str, length: int) -> bool:
        head = f"PUT / HTTP/{version}\r\nHost: d\r\nExpect: 100-Continue\r\nContent-Length: {length}\r\n\r\n"
        return parse(head.encode()).expects

    assert expects("1.1", 5)
    assert not expects("1.1", 0)
    assert not expects("1.0", 5)


def test_one_parser_reads_many_request_heads_even_after_bodies_and_upgrades() -> None:
    """The requests before the next head may have a body or ask for an upgrade."""
    parser = HeadParser(LIMITS)
    for method, headers in (
        (b"GET", b""),
        (b"POST", b"Content-Length: 9\r\n"),
        (b"POST", b"Transfer-Encoding: chunked\r\n"),
        (b"POST", b"Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 2\r\n"),
        (b"FROB", b""),
        (b"GET", b""),
    ):
        parsed = parser.parse(method + b" /p HTTP/1.1\r\nHost: d\r\n" + headers + b"\r\n")
        assert parsed is not None
        assert parsed[0].method.encode() == method


BAD_HEADERS = [
    "Content-Length: 5\r\nContent-Length: 5",
    "Content-Length: 5\r\nContent-Length: 6",
    "Content-Length: 5, 5",
    "Content-Length: +5",
    "Content-Length: -5",
    "Content-Length: 0x5",
    "Content-Length: 5 5",
    "Content-Length:",
    "Content-Length: 99999999999999999999999",
    "Content-Length: 5\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\nContent-Length: 5",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: xchunked",
    "Transfer-Encoding: chunked, gzip",
    "A: b\r\n folded",
    "A: b\x00c",
    "A: b\rc",
    "A: b\nC: d",
    "A : b",
    ": b",
    "no colon",
    "A\x01: b",
    "Host: second",
]


@pytest.mark.parametrize("header", BAD_HEADERS)
def test_ambiguous_or_malformed_headers_are_refused(header: str) -> None:
    assert refused(f"POST / HTTP/1.1\r\nHost: d\r\n{header}\r\n\r\n".encode()).status == 400


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: d\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET / HTTP/0.9\r\n\r\n", 505),
        (b"GET / HTTP/1.2\r\nHost: d\r\n\r\n", 505),
        (b"GET /\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\nHost: d\r\n\r\n", 400),
        (b"GET / x HTTP/1.1\r\nHost: d\r\n\r\n", 400),
        (b"GET / ICE/1.0\r\n\r\n", 400),
        (b"GET foo HTTP/1.1\r\nHost: d\r\n\r\n", 400),
        (b"GET /%zz HTTP/1.1\r\nHost: d\r\n\r\n", 400),
        (b"GET /\x00 HTTP/1.1\r\nHost: d\r\n\r\n", 400),
        (b"GET /\xe9 HTTP/1.1\r\nHost: d\r\n\r\n", 400),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: d\r\nContent-Length: 1\r\nExpect: tea\r\n\r\n", 417),
        (b"GET / HTTP/1.1\r\nHost: d\r\n" + b"A: b\r\n" * 8 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nA: " + b"b" * 4096, 431),
    ],
)
def test_invalid_heads_are_refused(head: bytes, status: int) -> None:
    assert refused(head).status == status


@pytest.mark.parametrize("beginning", [b"\x16\x03\x01\x02", b"{}", b"GET /\n", b"hello\r\n", b"GET / HTTP/1.1\nHost: d\n\n"])
def test_binary_input_is_refused_before_the_end_of_a_head(beginning: bytes) -> None:
    assert refused(beginning).status == 400


@pytest.mark.parametrize("beginning", [b"", b"G", b"GET / HT", b"GET / HTTP/1.1\r", b"GET / HTTP/1.1\r\nHost: d\r\n"])
def test_incomplete_head_waits_for_more_bytes(beginning: bytes) -> None:
    assert HeadParser(LIMITS).parse(beginning) is None
