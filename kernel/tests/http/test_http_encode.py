"""Encoding of answers."""

from __future__ import annotations

import pytest

from orlop_kernel.http import encode


def lines(data: bytes) -> list[str]:
    return data.decode().split("\r\n")


def test_answer_consists_of_status_line_and_headers_and_body_in_this_order() -> None:
    got = lines(encode.whole("1.1", 200, (("X-A", "1"), ("Content-Type", "t")), b"OK", head_only=False, keep=True))
    assert got[:4] == ["HTTP/1.1 200 OK", "X-A: 1", "Content-Type: t", "Content-Length: 2"]
    assert got[4].startswith("Date: ") and got[4].endswith(" GMT")
    assert got[5:] == ["", "OK"]


def test_date_header_is_an_imf_fixdate_and_changes_every_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 9110, section 5.6.7, defines the form IMF-fixdate."""
    for now, text in ((784111777.9, b"Sun, 06 Nov 1994 08:49:37 GMT"), (784111778.0, b"Sun, 06 Nov 1994 08:49:38 GMT")):
        monkeypatch.setattr("time.time", lambda now=now: now)
        assert b"Date: " + text + b"\r\n" in encode.whole("1.1", 200, (), b"", head_only=False, keep=True)


def test_answer_to_a_head_request_has_a_content_length_but_no_body() -> None:
    got = encode.whole("1.1", 200, (), b"four", head_only=True, keep=True)
    assert b"Content-Length: 4\r\n" in got
    assert got.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("status", [204, 304])
def test_204_and_304_have_neither_body_nor_length(status: int) -> None:
    got = encode.whole("1.1", status, (), b"lost", head_only=False, keep=True)
    assert b"Content-Length" not in got
    assert got.endswith(b"GMT\r\n\r\n")


@pytest.mark.parametrize(
    ("version", "keep", "line"),
    [
        ("1.1", True, b""),
        ("1.1", False, b"Connection: close"),
        ("1.0", True, b"Connection: keep-alive"),
        ("1.0", False, b""),
    ],
)
def test_connection_header_is_sent_only_if_it_differs_from_the_default_of_the_http_version(
    version: str, keep: bool, line: bytes
) -> None:
    for got in (
        encode.whole(version, 200, (), b"", head_only=False, keep=keep),
        encode.stream_head(version, 200, (), keep=keep),
    ):
        assert (b"Connection:" in got) is bool(line)
        assert line in got


def test_streaming_answers_are_chunked_for_http_1_1_only() -> None:
    assert b"Transfer-Encoding: chunked\r\n" in encode.stream_head("1.1", 200, (), keep=True)
    assert b"Transfer-Encoding" not in encode.stream_head("1.0", 200, (), keep=False)
    assert encode.chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"


@pytest.mark.parametrize(
    "header", [("X", "a\r\nSet-Cookie: b"), ("X", "a\x00"), ("X y", "a"), ("Content-Length", "3"), ("connection", "close")]
)
def test_headers_with_line_breaks_are_refused(header: tuple[str, str]) -> None:
    with pytest.raises(encode.BadHeader):
        encode.whole("1.1", 200, (header,), b"", head_only=False, keep=True)


def test_header_text_beyond_latin1_is_sent_as_utf8() -> None:
    assert "X: żółw".encode() in encode.stream_head("1.1", 200, (("X", "żółw"),), keep=True)
