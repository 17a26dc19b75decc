"""The multiplexed stream is parsed correctly wherever reads split the stream, and is written completely."""

from __future__ import annotations

import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop_cli._errors import CliError
from orlop_cli.attached.attachment import Sequence, detach_bytes
from orlop_cli.attached.streams import STDOUT, Demultiplexer, framed_writer, write_run
from orlop_cli.testing import frame

Frames = list[tuple[int, bytes]]


def runs(demultiplexer: Demultiplexer, parts: list[bytes]) -> Frames:
    return [(stream, bytes(piece)) for part in parts for stream, pieces in demultiplexer.feed(part) for piece in pieces]


def split(data: bytes, at: list[int]) -> list[bytes]:
    places = sorted({place % (len(data) + 1) for place in at})
    return [data[start:stop] for start, stop in zip([0, *places], [*places, len(data)], strict=True)]


@given(
    st.lists(st.tuples(st.sampled_from([0, 1, 2]), st.binary(max_size=30)), max_size=15),
    st.lists(st.integers(0, 999), max_size=40),
)
def test_stream_frames_that_arrive_in_any_pieces_are_decoded(frames: Frames, at: list[int]) -> None:
    data = b"".join(frame(stream, payload) for stream, payload in frames)
    seen = runs(Demultiplexer(), split(data, at))
    for stream in (0, 1, 2):
        assert b"".join(payload for one, payload in seen if one == stream) == b"".join(
            payload for one, payload in frames if one == stream
        )

    def order(items: Frames) -> list[int]:
        """Stream numbers in the order in which their bytes came."""
        out: list[int] = []
        for stream, payload in items:
            if payload and out[-1:] != [stream]:
                out.append(stream)
        return out

    assert order(seen) == order(frames)


def test_adjacent_frames_of_a_stream_are_joined() -> None:
    found = Demultiplexer().feed(frame(1, b"a") + frame(1, b"b") + frame(2, b"c") + frame(1, b"d"))
    assert [(stream, len(pieces)) for stream, pieces in found] == [(1, 2), (2, 1), (1, 1)]


def test_payload_bytes_are_passed_on_before_the_frame_is_complete() -> None:
    demultiplexer = Demultiplexer()
    assert runs(demultiplexer, [frame(1, b"abcdef")[:11]]) == [(1, b"abc")]
    assert runs(demultiplexer, [b"def"]) == [(1, b"def")]


@pytest.mark.parametrize("at", [0, 4, 8, 10])
def test_error_frame_in_a_stream_raises_an_error_with_the_daemons_message(at: int) -> None:
    data = frame(3, b"disk on fire")
    with pytest.raises(CliError, match="error from daemon in stream: disk on fire"):
        runs(Demultiplexer(), [frame(1, b"x") + data[:at], data[at:]])


def test_unknown_stream_number_is_refused() -> None:
    with pytest.raises(CliError, match="unrecognized stream: 9"):
        Demultiplexer().feed(frame(9, b"x"))


def test_data_of_streams_without_a_descriptor_is_dropped() -> None:
    reader, writer = os.pipe()
    try:
        write = framed_writer({STDOUT: writer})
        write(frame(1, b"out") + frame(2, b"err") + frame(0, b"in"))
        assert os.read(reader, 100) == b"outin"
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("size", [10, 20_000], ids=["joined", "writev"])
def test_slow_non_blocking_reader_gets_all_output(size: int) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    pieces = [memoryview(bytes([number % 251]) * size) for number in range(3000 if size == 10 else 100)]
    got: list[bytes] = []

    def read() -> None:
        while data := os.read(reader, 4096):
            got.append(data)

    thread = threading.Thread(target=read)
    thread.start()
    write_run(writer, pieces)
    os.close(writer)
    thread.join()
    os.close(reader)
    assert b"".join(got) == b"".join(pieces)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (None, b"\x10\x11"),
        ("ctrl-a,x", b"\x01x"),
        ("DEL", b"\x7f"),
        ("ctrl-@,ctrl-[,ctrl-_", b"\x00\x1b\x1f"),
        ("a,b,c", b"abc"),
    ],
)
def test_detach_keys_are_parsed(keys: str | None, expected: bytes) -> None:
    assert detach_bytes(keys) == expected


@pytest.mark.parametrize("keys", ["ctrl-", "ctrl-A", "shift-a", "ctrl-a,", "ctrl-1"])
def test_invalid_detach_keys_are_refused(keys: str) -> None:
    with pytest.raises(CliError, match="invalid detach keys"):
        detach_bytes(keys)


@pytest.mark.parametrize(
    ("typed", "matches"),
    [
        ([b"ls\x10\x11"], True),
        ([b"\x10", b"\x11"], True),
        ([b"\x10x\x11"], False),
        ([b"\x10\x10\x11"], True),
        ([b"\x11\x10"], False),
    ],
)
def test_detach_sequence_is_recognized_across_reads(typed: list[bytes], matches: bool) -> None:
    sequence = Sequence(b"\x10\x11")
    assert (True in [sequence.feed(data) for data in typed]) is matches
