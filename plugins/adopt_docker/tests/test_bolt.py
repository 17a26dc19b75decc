"""The BoltDB reader, with files that bbolt has written, and with damaged files."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orlop_adopt_docker.bolt import Bolt, BoltError, Bucket

PAGE = 4096
TREE: dict[str, Any] = {
    "inline": {"a": b"1", "b": b""},
    "large": {"value": b"x" * 3 * PAGE, "more": b"y" * 500},
    "many": {f"key{number:03}": str(number).encode() for number in range(50)},
    "nested": {"inner": {"deep": {"k": b"v" * 300}}},
    "value": b"at the top",
}


def tree(bucket: Bucket) -> dict[str, Any]:
    return {key.decode(): tree(value) if isinstance(value, Bucket) else value for key, value in bucket}


def everything(data: bytes) -> None:
    tree(Bolt(data).root)


def test_database_with_all_kinds_of_pages_is_read(write_bolt: Callable[..., bytes]) -> None:
    file = Bolt(write_bolt(TREE))
    assert tree(file.root) == TREE
    assert file.transaction == 7, "the newer meta page; the other one leads nowhere"
    inner = file.root.find("nested", "inner", "deep")
    assert inner is not None and inner.values() == {"k": b"v" * 300}
    assert file.root.find("nested", "none", "deep") is None


def test_older_meta_page_is_used_if_the_newer_meta_page_is_damaged(write_bolt: Callable[..., bytes]) -> None:
    data = bytearray(write_bolt(TREE))
    newer = bytes(data[PAGE : 2 * PAGE])
    data[:PAGE], data[PAGE + 40] = newer, data[PAGE + 40] ^ 1
    assert tree(Bolt(bytes(data)).root) == TREE
    data[40] ^= 1
    with pytest.raises(BoltError, match="no valid meta page"):
        Bolt(bytes(data))


@pytest.mark.parametrize("data", [b"", b"x" * 100, b"\0" * 20000], ids=["empty", "short", "zeros"])
def test_files_that_are_no_bolt_databases_are_refused(data: bytes) -> None:
    with pytest.raises(BoltError):
        Bolt(data)


def test_cycle_of_pages_is_refused(write_bolt: Callable[..., bytes]) -> None:
    data = bytearray(write_bolt({f"k{number}": b"v" for number in range(20)}))
    root = struct.unpack_from("<Q", data, PAGE + 32)[0]
    struct.pack_into("<Q", data, root * PAGE + 16 + 8, root)  # the first child of the branch is the branch
    with pytest.raises(BoltError, match="its own descendant"):
        everything(bytes(data))


def test_truncated_page_is_refused(write_bolt: Callable[..., bytes]) -> None:
    data = bytearray(write_bolt({"k": b"value"}))
    struct.pack_into("<I", data, 2 * PAGE + 12, 1000)  # the header says that the page has 1,000 overflow pages
    with pytest.raises(BoltError, match="a page is cut off"):
        everything(bytes(data))


def test_value_outside_its_page_is_refused(write_bolt: Callable[..., bytes]) -> None:
    data = bytearray(write_bolt({"k": b"value"}))
    struct.pack_into("<I", data, 2 * PAGE + 16 + 12, 1 << 30)
    with pytest.raises(BoltError, match="cut off"):
        everything(bytes(data))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.integers(2 * PAGE, 20 * PAGE), st.integers(0, 255)), max_size=20), cut=st.integers(0, 40)
)
def test_damaged_database_raises_no_errors_except_bolt_errors(
    write_bolt: Callable[..., bytes], changes: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(write_bolt(TREE))
    for at, value in changes:
        data[at % len(data)] = value
    try:
        everything(bytes(data[: len(data) - cut * 1000] if cut else data))
    except BoltError:
        pass
