"""The line splitter, compared with a model that processes one byte at a time."""

from __future__ import annotations

import itertools
import time

from hypothesis import given
from hypothesis import strategies as st

from orlop_monitor.lines import LINE_LIMIT, LineSplitter
from orlop_sdk import LogBlock

Entry = tuple[bytes, int]


def model(feeds: list[bytes]) -> list[Entry]:
    """The expected entries with their times. The calls of `feed` are numbered, and the number is used as the time. `flush`
    is called after the last `feed`."""
    entries: list[Entry] = []
    line, piece_time = bytearray(), None
    for now, data in enumerate(feeds):
        for byte in data:
            line.append(byte)
            if byte == 10:
                entries.append((bytes(line), now if piece_time is None else piece_time))
                line, piece_time = bytearray(), None
            elif len(line) == LINE_LIMIT:
                piece_time = now if piece_time is None else piece_time
                entries.append((bytes(line), piece_time))
                line = bytearray()
    if line:
        entries.append((bytes(line), len(feeds) if piece_time is None else piece_time))
    return entries


def split(feeds: list[bytes]) -> list[LogBlock]:
    splitter = LineSplitter("stdout")
    blocks = [block for now, data in enumerate(feeds) for block in splitter.feed(data, now)]
    return blocks + splitter.flush(len(feeds))


def entries(blocks: list[LogBlock]) -> list[Entry]:
    found: list[Entry] = []
    for block in blocks:
        lines = [block.data] if block.partial else block.data.splitlines(keepends=True)
        found += [(line, block.time_ns) for line in lines]
    return found


lengths = st.one_of(
    st.integers(0, 200),
    st.integers(LINE_LIMIT - 2, LINE_LIMIT + 2),
    st.integers(2 * LINE_LIMIT - 2, 2 * LINE_LIMIT + 2),
    st.integers(0, 4 * LINE_LIMIT),
)


def cut(output: bytes, sizes: list[int]) -> list[bytes]:
    feeds, turn = [], itertools.cycle(sizes)
    while output:
        size = next(turn)
        feeds.append(output[:size])
        output = output[size:]
    return feeds


sizes = st.lists(st.one_of(st.integers(1, 70_000), st.sampled_from([1, LINE_LIMIT, 65_536])), min_size=1, max_size=4)
outputs = st.builds(
    lambda parts, sizes: cut(b"\n".join(b"x" * part for part in parts), [*sizes, 5000]),
    st.lists(lengths, max_size=5),
    sizes,
)


@given(outputs)
def test_entries_of_the_splitter_equal_those_of_the_byte_by_byte_model(feeds: list[bytes]) -> None:
    assert entries(split(feeds)) == model(feeds)


@given(outputs)
def test_pieces_of_long_lines_have_a_bounded_length_and_contain_no_newline(feeds: list[bytes]) -> None:
    for block in split(feeds):
        assert block.data
        if block.partial:
            assert b"\n" not in block.data
            assert len(block.data) <= LINE_LIMIT
        else:
            assert block.data.endswith(b"\n")
            assert max(map(len, block.data.split(b"\n"))) <= LINE_LIMIT


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_splitter_loses_no_output(feeds: list[bytes]) -> None:
    assert b"".join(block.data for block in split(feeds)) == b"".join(feeds)


def test_short_lines_of_one_read_form_one_block() -> None:
    read = b"hello world\n" * 5000
    splitter = LineSplitter("stderr")
    assert splitter.feed(read + b"beg", 1) == [LogBlock("stderr", read, 1)]
    assert splitter.feed(b"in\n" + read, 2) == [LogBlock("stderr", b"begin\n" + read, 2)]
    assert splitter.flush(3) == []


def test_line_whose_length_is_the_limit_is_split_before_its_newline() -> None:
    line = b"y" * LINE_LIMIT
    assert entries(split([line, b"\n"])) == [(line, 0), (b"\n", 0)]
    assert entries(split([line[1:] + b"\n"])) == [(line[1:] + b"\n", 0)]


def test_all_pieces_of_a_line_have_the_time_of_the_first_piece() -> None:
    splitter = LineSplitter("stdout")
    assert splitter.feed(b"z" * 10, 1) == []
    [piece] = splitter.feed(b"z" * LINE_LIMIT, 2)
    assert (piece.time_ns, piece.partial) == (2, True)
    last, others = splitter.feed(b"end\nnext\n", 9)
    assert last == LogBlock("stdout", b"z" * 10 + b"end\n", 2)
    assert others == LogBlock("stdout", b"next\n", 9)


def test_time_to_split_a_huge_line_is_linear() -> None:
    def cost(megabytes: int) -> float:
        splitter, data = LineSplitter("stdout"), bytes(4096)
        began = time.process_time()
        for now in range(megabytes * 256):
            splitter.feed(data, now)
        return time.process_time() - began

    cost(1)
    # Quadratic time would give a ratio of 64; the limit allows for a busy machine.
    assert cost(32) < 24 * max(cost(4), 0.001)


def test_output_read_byte_by_byte_is_split_as_in_the_model() -> None:
    output = (b"a" * 20_000 + b"\nb\n") * 2
    feeds = [output[at : at + 1] for at in range(len(output))]
    assert entries(split(feeds)) == model(feeds)
