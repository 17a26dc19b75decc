"""Compression of layers: blocks that do not depend on how a tar is read, and streams that every decompressor reads."""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Iterator
from typing import Any

import pytest
import zstandard

from orlop_engine.images import compression
from orlop_engine.images.compression import Compression, Recipe, _blocks, _compressor, _Output

DATA = os.urandom(300_000) + b"text\n" * 300_000 + b"end"


class Kept:
    """An ingest that keeps the bytes in memory."""

    def __init__(self) -> None:
        self.data = bytearray()

    def store(self, data: bytes) -> None:
        self.data += data


def cut(size: int) -> Iterator[bytes]:
    stream = io.BytesIO(DATA)
    while piece := stream.read(size):
        yield piece


def compressed(kind: Compression, size: int) -> bytes:
    kept: Any = Kept()
    with _compressor(Recipe(kind), _Output(kept)) as sink:
        for block in _blocks(cut(size)):
            sink.write(block)
    return bytes(kept.data)


@pytest.mark.parametrize("size", [1000, 65_536, compression._BLOCK, 1 << 20, 1 << 22])
def test_tar_data_is_divided_into_equal_blocks_for_any_size_of_reads(size: int) -> None:
    blocks = list(_blocks(cut(size)))
    assert b"".join(blocks) == DATA
    assert {len(block) for block in blocks[:-1]} == {compression._BLOCK}


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_compression_is_deterministic(kind: Compression, monkeypatch: pytest.MonkeyPatch) -> None:
    """The output is the same for any sizes of reads and any number of processors."""
    found = {compressed(kind, size) for size in (1000, 100_000, 1 << 20)}
    for threads in (1, 2, 3):
        monkeypatch.setattr(compression, "_THREADS", threads)
        found.add(compressed(kind, 1 << 20))
    (stream,) = found
    if kind == "gzip":
        assert gzip.decompress(stream) == DATA
        assert stream[4:8] == bytes(4), "no time"
    else:
        assert zstandard.ZstdDecompressor().decompressobj().decompress(stream) == DATA
