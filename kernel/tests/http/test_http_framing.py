"""The end of a body: lengths, chunks, input that arrives in pieces, malformed chunks."""

from __future__ import annotations

import pytest

from orlop_kernel.http.framing import Chunked, Counted, Framing
from orlop_kernel.http.messages import BodyError


def feed(framing: Framing, pieces: list[bytes]) -> tuple[bytes, bytes]:
    """The content and the remaining input, if the input arrives in these pieces."""
    content, waiting = b"", b""
    for piece in pieces:
        waiting += piece
        while not framing.done:
            taken, waiting = framing.take(waiting)
            content += taken
            if not taken:
                break
    return content, waiting


def test_body_with_a_length_ends_before_the_next_request() -> None:
    assert feed(Counted(5), [b"ab", b"cdeGET"]) == (b"abcde", b"GET")


WIRE = b'3\r\nabc\r\nA ; x="y"\r\n0123456789\r\n0\r\nTrailer: t\r\n\r\nGET'


def test_chunks_are_joined() -> None:
    assert feed(Chunked(), [WIRE]) == (b"abc0123456789", b"GET")


@pytest.mark.parametrize("cut", range(1, len(WIRE)))
def test_chunked_body_may_arrive_in_two_pieces_cut_anywhere(cut: int) -> None:
    assert feed(Chunked(), [WIRE[:cut], WIRE[cut:]]) == (b"abc0123456789", b"GET")


def test_chunked_body_may_arrive_byte_by_byte() -> None:
    assert feed(Chunked(), [WIRE[i : i + 1] for i in range(len(WIRE))]) == (b"abc0123456789", b"GET")


@pytest.mark.parametrize(
    "wire",
    [
        b"x\r\n",
        b"\r\n",
        b"-1\r\n",
        b"+1\r\n",
        b"0x1\r\n",
        b"1_0\r\n",
        b" 1\r\n",
        b"1\n",
        b"1;\x00\r\n",
        b"1;a\rb\r\n",
        b"1\r\nab",
        b"1\r\na\n",
        b"1\r\na\rX",
        b"FFFFFFFFFFFFFFFFF\r\n",
        b"1" * 1024,
        b"1;" + b"x" * 1100 + b"\r\n",
        b"0\r\nno colon\r\n",
        b"0\r\nA: b\n\n",
        b"0\r\n" + b"A: bcdef\r\n" * 1000,
    ],
)
def test_invalid_chunk_sizes_are_refused(wire: bytes) -> None:
    with pytest.raises(BodyError) as caught:
        feed(Chunked(), [wire])
    assert caught.value.status == 400
