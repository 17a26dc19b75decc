"""The frame format of `local`: round trip, and damage that loses only the damaged frames."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from orlop_log_local import LocalLog
from orlop_log_local.frames import MAGIC, Frames, encode, encode_attributes
from orlop_sdk import LogBlock, LogInfo, LogQuery, LogRecord
from orlop_sdk.logfiles import rfc3339

lines = st.lists(st.binary(max_size=20).map(lambda text: text.replace(b"\n", b"") + b"\n"), min_size=1, max_size=8)
streams = st.sampled_from(["stdout", "stderr"])
times = st.integers(0, 2_000_000_000_000_000_000)
blocks = st.lists(
    st.one_of(
        st.builds(lambda stream, some, at: LogBlock(stream, b"".join(some), at), streams, lines, times),
        st.builds(
            lambda stream, text, at: LogBlock(stream, text, at, True),
            streams,
            st.binary(min_size=1, max_size=20).filter(lambda text: b"\n" not in text),
            times,
        ),
    ),
    min_size=1,
    max_size=8,
)


def records(block: LogBlock, attributes: dict[str, str] | None = None) -> list[LogRecord]:
    parts = [block.data] if block.partial else [line + b"\n" for line in block.data[:-1].split(b"\n")]
    return [LogRecord(block.stream, part, rfc3339(block.time_ns), attributes) for part in parts]


def frame(number: int) -> bytes:
    return encode(LogBlock("stdout", b"%03d\n" % number, number), b"", 1 << 20)


def seen(data: bytes) -> list[int]:
    return [int(record.data) for record in Frames().decode(data)]


@given(blocks, st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3))
def test_encoded_records_are_decoded_unchanged(some: list[LogBlock], attributes: dict[str, str]) -> None:
    data = b"".join(encode(block, encode_attributes(attributes), 1 << 20) for block in some)
    want = [record for block in some for record in records(block, attributes or None)]
    assert Frames().decode(data) == want
    assert Frames().count(data) == len(want)
    assert Frames().complete_length(data) == len(data)


@given(st.data())
def test_complete_length_of_cut_data_is_the_end_of_the_last_whole_frame(data: st.DataObject) -> None:
    frames = [frame(number) for number in range(5)]
    whole = b"".join(frames)
    cut = data.draw(st.integers(0, len(whole)))
    assert Frames().complete_length(whole[:cut]) == cut - cut % len(frames[0])
    assert seen(whole[:cut]) == list(range(cut // len(frames[0])))
    assert Frames().next_end(whole, cut) == -(-max(cut, 1) // len(frames[0])) * len(frames[0])


@given(st.data())
def test_one_changed_byte_damages_only_one_frame(data: st.DataObject) -> None:
    whole = bytearray(b"".join(frame(number) for number in range(6)))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    hit = at * 6 // len(whole)
    assert seen(bytes(whole)) == [number for number in range(6) if number != hit]


def test_reading_can_start_at_any_offset() -> None:
    whole = b"".join(frame(number) for number in range(5))
    size = len(frame(0))
    for cut in range(len(whole) - size):
        start = Frames().sync(whole[cut:])
        assert (cut + start) % size == 0
        assert start < size
    assert Frames().sync(b"nothing here") == 12


def test_magic_bytes_in_the_output_do_not_start_a_frame() -> None:
    text = MAGIC + b"\x20\x00\x00\x00" + MAGIC + b"\n"
    data = encode(LogBlock("stdout", text, 1), b"", 1 << 20) + frame(7)
    assert [record.data for record in Frames().decode(data)] == [text, b"007\n"]


def test_block_over_the_size_limit_is_split_into_frames_at_lines() -> None:
    block = LogBlock("stderr", b"".join(b"%04d\n" % number for number in range(1000)) + b"x" * 300 + b"\n", 5)
    data = encode(block, b"", 64)
    assert Frames().decode(data) == records(block)
    assert Frames().next_end(data, 1) < 64 + 40


def test_last_intact_frames_are_found() -> None:
    whole = b"".join(frame(number) for number in range(10))
    size = len(frame(0))
    damaged = bytearray(whole)
    damaged[4 * size + 12] ^= 1
    for data, kept in (
        (whole, 10),
        (whole + b"\xc5OL\x01\x30\0\0\0half", 10),
        (bytes(damaged), 9),
        (whole + bytes(9000), 10),
    ):
        fd = os.memfd_create("log")
        try:
            os.write(fd, data)
            assert Frames().valid_size(fd, len(data)) == len(whole)
            for count in range(12):
                start, found = Frames().last(fd, len(data), count)
                assert found == min(count, kept)
                assert len(seen(data[start:])) == found
        finally:
            os.close(fd)


def test_file_without_intact_frames_has_no_records() -> None:
    fd = os.memfd_create("log")
    try:
        os.write(fd, b"garbage" * 50_000)
        assert Frames().valid_size(fd, 350_000) == 0
        assert Frames().last(fd, 350_000, 5) == (0, 0)
    finally:
        os.close(fd)


def test_log_is_bounded_and_compressed_by_default(tmp_path: Path) -> None:
    info = LogInfo("c", "/c", "", "", "", "", str(tmp_path))
    driver = LocalLog()
    writer = driver.open_writer(info, {})
    noise = os.urandom(30_000).hex().encode()
    block = LogBlock("stdout", b"".join(noise[at : at + 60] + b"\n" for at in range(0, 60_000, 60)), 1)
    for _ in range(2200):  # 134 MB
        writer.write([block])
    writer.close()
    directory = tmp_path / "local-logs"
    assert len(os.listdir(directory)) == 5
    assert sum(name.endswith(".gz") for name in os.listdir(directory)) >= 3
    assert (directory / "container.log").stat().st_size <= (20 << 20) + (1 << 20)
    reader = driver.open_reader(info, {}, LogQuery(tail=2))
    assert [record.data for record in reader.read()] == [line + b"\n" for line in block.data.split(b"\n")[-3:-1]]
    reader.close()
