from __future__ import annotations

import json
import os
import zlib

import pytest

from orlop_log_gelf.messages import Message, chunks, compress


def test_message_contains_its_time_in_seconds() -> None:
    message = json.loads(Message("here", {"_tag": "t"})("stderr", b"\xff", 1_700_000_000_012_999_999))
    assert message == {
        "version": "1.1", "host": "here", "short_message": "\ufffd", "timestamp": 1_700_000_000.012, "level": 3, "_tag": "t"
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["gzip", "zlib", "none"])
def test_compressed_message_can_be_decompressed(kind: str) -> None:
    data = compress(b"text" * 100, kind, -1)
    assert (zlib.decompress(data, 47) if kind != "none" else data) == b"text" * 100


def test_long_message_is_divided_into_chunks() -> None:
    data = os.urandom(100_000)
    found = chunks(data)
    assert {len(chunk) for chunk in found[:-1]} == {1420}
    assert b"".join(chunk[12:] for chunk in found) == data
    assert [tuple(chunk[10:12]) for chunk in found] == [(number, len(found)) for number in range(len(found))]
    assert len({chunk[2:10] for chunk in found}) == 1


def test_message_that_is_too_long_for_128_chunks_is_not_sent() -> None:
    assert chunks(bytes(1408 * 128 + 1)) == ()
