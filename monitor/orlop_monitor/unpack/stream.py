"""Decompresses a stream from a descriptor, and computes its hash.

A second thread reads, decompresses and hashes (all in C, without the interpreter's lock), up to four chunks ahead of the
thread that writes files. The second thread ends at the end of the stream, at an error, or after `close`. The thread reads
from its own descriptor, so that the caller can close the original descriptor at any time.
"""

from __future__ import annotations

import bz2
import hashlib
import lzma
import os
import queue
import threading
from collections.abc import Callable, Iterator
from typing import BinaryIO, Protocol, cast

import zstandard
from isal import igzip

from .errors import CUT_OFF, UnpackError
from .zstd_frames import ZstdFrames, is_skippable

__all__ = ["CHUNK", "COMPRESSIONS", "CompressedFile", "Uncompressed", "decompress", "sniff", "write_sparse", "write_whole"]

CHUNK = 1 << 20
_ZEROS = bytes(CHUNK)
_AHEAD = 4
_MEMORY = 256 << 20  # bytes of memory that a decompressor may use: xz -9 needs 65 MiB, zstd --ultra --long=27 needs 128 MiB

_MAGIC = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
)
_ENDS_EARLY = "the compressed stream ends early"
COMPRESSIONS = tuple(name for _, name in _MAGIC)


def sniff(head: bytes) -> str:
    """Detect the compression of a stream from its first bytes; "" for none. A zstd stream may begin with a skippable frame
    (magic 0x184D2A50 to 5F), as zstd:chunked layers do."""
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    return "zstd" if len(head) >= 4 and is_skippable(head[:4]) else ""


def write_whole(fd: int, data: bytes | memoryview) -> None:
    """Write all of `data`, with as many calls as needed."""
    done = os.write(fd, data)
    while done < len(data):
        done += os.write(fd, data[done:])


def write_sparse(fd: int, data: bytes | memoryview) -> None:
    """Like `write_whole`, but a run of zeros becomes a hole. At the end the caller must set the file's size, because the
    file may end with a hole."""
    if data == _ZEROS[: len(data)]:
        os.lseek(fd, len(data), os.SEEK_CUR)
    else:
        write_whole(fd, data)


class CompressedFile:
    """A file object for decompressors. `consumed` counts the bytes read from the descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._head = b""
        self.consumed = 0

    def peek(self, size: int) -> bytes:
        while len(self._head) < size:
            data = os.read(self._fd, CHUNK)
            if not data:
                break
            self._head += data
        return self._head[:size]

    def read(self, size: int = -1) -> bytes:
        if self._head:
            data, self._head = self._head, b""
            if 0 <= size < len(data):
                data, self._head = data[:size], data[size:]
        else:
            data = os.read(self._fd, CHUNK if size < 0 else size)
        self.consumed += len(data)
        return data

    def readinto(self, buffer: bytearray | memoryview) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


def _members(file: CompressedFile, make: Callable[[], _Decompressor]) -> Iterator[bytes]:
    """Decompress one or more concatenated members. Zeros may follow the last one (xz stream padding)."""
    pending = b""
    while True:
        pending = (pending or file.read(CHUNK)).lstrip(b"\0")
        if not pending:
            data = file.read(CHUNK)
            if not data:
                return
            pending = data
            continue
        member = make()
        while not member.eof:
            if member.needs_input and not pending:
                pending = file.read(CHUNK)
                if not pending:
                    raise EOFError(_ENDS_EARLY)
            data = member.decompress(pending, CHUNK)
            pending = b""
            if data:
                yield data
        pending = member.unused_data


def decompress(file: CompressedFile) -> Iterator[bytes]:
    """Yield the uncompressed stream in chunks of at most 1 MiB. The compression is detected only by magic number; media
    types and file names are not used, and no program is run."""
    kind = sniff(file.peek(8))
    if kind == "gzip":
        reader = igzip._IGzipReader(cast(BinaryIO, file), CHUNK)
        while data := reader.read(CHUNK):
            yield data
    elif kind == "zstd":
        zstd = zstandard.ZstdDecompressor(max_window_size=1 << 27)
        frames = ZstdFrames(file)
        with zstd.stream_reader(cast(BinaryIO, frames), read_size=CHUNK, read_across_frames=True, closefd=False) as stream:
            while data := stream.read(CHUNK):
                yield data
        if not frames.complete:
            raise EOFError(_ENDS_EARLY)
    elif kind == "bzip2":
        yield from _members(file, bz2.BZ2Decompressor)
    elif kind == "xz":
        yield from _members(file, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY))
    else:
        while data := file.read(CHUNK):
            yield data


class Uncompressed:
    """The reader of the decompressed stream; implements `archive.Source`. Used by one thread. The caller keeps ownership of
    `fd`."""

    def __init__(self, fd: int, limit: int, *, hashed: bool = True) -> None:
        """`hashed`: false if `digest` is not needed; hashing takes most of the thread's time."""
        self.size = 0
        self._fd = os.dup(fd)
        self._file = CompressedFile(self._fd)
        self._limit = limit
        self._hash = hashlib.sha256() if hashed else None
        self._queue: queue.Queue[bytes | BaseException] = queue.Queue(_AHEAD)
        self._closed = False
        self._chunk = memoryview(b"")
        self._at = 0
        self._ended = False
        self._thread = threading.Thread(target=self._produce, daemon=True)
        self._thread.start()

    def __enter__(self) -> Uncompressed:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def consumed(self) -> int:
        """The number of compressed bytes read so far."""
        return self._file.consumed

    def _produce(self) -> None:
        try:
            for data in decompress(self._file):
                if self._hash is not None:
                    self._hash.update(data)
                self.size += len(data)
                if self.size > self._limit:
                    raise UnpackError(f"it has more than {self._limit} bytes uncompressed, which is the limit")
                self._queue.put(data)
                if self._closed:
                    return
            self._queue.put(b"")
        except BaseException as error:
            self._queue.put(error)
        finally:
            os.close(self._fd)

    def _next(self) -> bool:
        """Get the next chunk. Returns false at the end."""
        if self._ended:
            return False
        item = self._queue.get()
        # gzip and bzip2 raise `OSError` without an errno for damaged data.
        if isinstance(item, UnpackError) or (isinstance(item, OSError) and item.errno is not None):
            raise item
        if isinstance(item, BaseException):
            raise UnpackError(f"damaged compressed stream: {item}") from item
        if not item:
            self._ended = True
            return False
        self._chunk, self._at = memoryview(item), 0
        return True

    def read(self, size: int) -> bytes:
        at = self._at
        if at + size <= len(self._chunk):
            self._at = at + size
            return bytes(self._chunk[at : at + size])
        parts = []
        while size:
            piece = self._piece(size)
            if not piece:
                break
            parts.append(bytes(piece))
            size -= len(piece)
        return b"".join(parts)

    def _piece(self, most: int) -> memoryview:
        """The next bytes of the stream, at most `most`, without a copy. The result is empty at the end of the stream."""
        if self._at == len(self._chunk) and not self._next():
            return memoryview(b"")
        piece = self._chunk[self._at : self._at + most]
        self._at += len(piece)
        return piece

    def pieces(self, size: int) -> Iterator[memoryview]:
        """Yield exactly `size` bytes as views, each valid until the next step. Raises `UnpackError` when the stream ends too
        early."""
        while size:
            piece = self._piece(size)
            if not piece:
                raise UnpackError(CUT_OFF)
            size -= len(piece)
            yield piece

    def skip(self, size: int) -> None:
        for _ in self.pieces(size):
            pass

    def rest(self) -> Iterator[memoryview]:
        """Yield the rest of the stream, as views that are valid until the next step."""
        while piece := self._piece(CHUNK):
            yield piece

    def drain(self) -> None:
        """Read to the end, because the diffID also covers bytes after the end-of-archive mark."""
        while self._piece(CHUNK):
            pass

    def digest(self) -> str:
        """The diffID; "" if the stream is not hashed. Call `drain` first."""
        return f"sha256:{self._hash.hexdigest()}" if self._hash is not None else ""

    def close(self) -> None:
        """Stop the thread at its next chunk. If the thread is waiting for input, it ends when the input or the process
        ends."""
        self._closed = True
        while True:
            try:
                self._queue.get_nowait()
            except queue.Empty:
                return
