"""Streams that are truncated, damaged or too long; and the protocol of the unpack worker."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import zstandard

from orlop_monitor.unpack.errors import CUT_OFF, UnpackError
from orlop_monitor.unpack.request import FRAME_LIMIT, HEADER, Decompress, Stream, encode, receive_request
from orlop_monitor.unpack.stream import CHUNK, CompressedFile, Uncompressed, write_sparse, write_whole
from orlop_monitor.unpack.zstd_frames import ZstdFrames
from orlop_sdk.testing.durability import no_descriptors_left

pytestmark = pytest.mark.timeout(15)  # a test takes less than a second, unless a reader misses the end of its stream

NOISE = os.urandom(3 * CHUNK + 5)
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, 1),
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
    "bzip2": bz2.compress,
    "xz": lambda data: lzma.compress(data, preset=0),
}


@contextmanager
def memory(data: bytes = b"") -> Iterator[int]:
    fd = os.memfd_create("stream")
    try:
        write_whole(fd, data)
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)


def read_whole(data: bytes, limit: int = 1 << 30) -> tuple[bytes, str]:
    with no_descriptors_left(), memory(data) as fd, Uncompressed(fd, limit) as stream:
        whole = b"".join(map(bytes, stream.rest()))
        assert (stream.size, stream.consumed, stream.read(5)) == (len(whole), len(data), b"")
        return whole, stream.digest()


def test_stream_without_hash_has_no_digest_but_the_same_size_limit() -> None:
    with memory(NOISE) as fd, Uncompressed(fd, 1 << 30, hashed=False) as stream:
        assert b"".join(map(bytes, stream.rest())) == NOISE and stream.size == len(NOISE) and stream.digest() == ""
    limit = len(NOISE) - 1
    with memory(NOISE) as fd, Uncompressed(fd, limit, hashed=False) as stream, pytest.raises(UnpackError, match="the limit"):
        stream.drain()


# --- compressed streams


@pytest.mark.parametrize("kind", ["", *PACKERS])
def test_streams_of_every_supported_compression_are_read(kind: str) -> None:
    packed = PACKERS[kind](NOISE) if kind else NOISE
    assert read_whole(packed) == (NOISE, f"sha256:{hashlib.sha256(NOISE).hexdigest()}")


@pytest.mark.parametrize("kind", PACKERS)
def test_damaged_compressed_streams_are_refused(kind: str) -> None:
    packed = bytearray(PACKERS[kind](NOISE[:50_000]))
    packed[len(packed) // 2] ^= 1
    with pytest.raises(UnpackError, match=r"^damaged compressed stream: "):
        read_whole(bytes(packed))


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("left", [12, 30_000, -1])
def test_truncated_compressed_streams_are_refused(kind: str, left: int) -> None:
    packed = PACKERS[kind](NOISE[:50_000])
    with pytest.raises(UnpackError, match=r"^damaged compressed stream: "):
        read_whole(packed[:left])


def zstd_frames() -> list[bytes]:
    """Frames with all forms of headers and blocks."""
    noise, zeros = NOISE[:300], bytes(300)
    frames = [zstandard.ZstdCompressor().compress(b"text " * 100), zstandard.ZstdCompressor().compress(b"")]
    for sized in (True, False):
        packer = zstandard.ZstdCompressor(write_checksum=not sized, write_content_size=sized)
        frames += [packer.compress(data) for data in (noise, zeros, NOISE[:70_000], bytes(300_000))]
    streaming = zstandard.ZstdCompressor(write_checksum=True).compressobj()
    frames.append(streaming.compress(noise) + streaming.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK) + streaming.flush())
    frames += [b"\x50\x2a\x4d\x18" + (7).to_bytes(4, "little") + b"ignored", b"\x5f\x2a\x4d\x18" + bytes(4)]
    return frames


def test_zstd_stream_that_ends_within_a_frame_is_refused() -> None:
    """A truncated stream is also detected if it is read in small pieces."""
    frames = zstd_frames()
    whole = b"".join(frames)
    ends = {sum(map(len, frames[:count])) for count in range(len(frames) + 1)}
    for piece in (1, 3, 1000):
        file = ZstdFrames(io.BytesIO(whole))
        at = 0
        while data := file.read(piece):
            at += len(data)
            assert file.complete == (at in ends)
    for frame in frames:
        read_whole(frame)
        with pytest.raises(UnpackError, match="the compressed stream ends early"):
            read_whole(frame[:-1])


def test_zero_bytes_after_the_last_compressed_member_are_ignored() -> None:
    for kind in ("bzip2", "xz"):
        assert read_whole(PACKERS[kind](b"data") + bytes(2 * CHUNK))[0] == b"data"


def test_uncompressed_size_is_limited() -> None:
    bomb = gzip.compress(bytes(4 * CHUNK))
    assert read_whole(bomb, 4 * CHUNK)[0] == bytes(4 * CHUNK)
    with pytest.raises(UnpackError, match=f"^it has more than {4 * CHUNK - 1} bytes uncompressed, which is the limit"):
        read_whole(bomb, 4 * CHUNK - 1)


def test_read_errors_of_the_source_are_raised_as_os_errors(tmp_path: str) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(IsADirectoryError), Uncompressed(fd, 1) as stream:
            stream.drain()
    finally:
        os.close(fd)


# --- reading


def test_stream_can_be_read_in_pieces_of_any_size() -> None:
    with memory(NOISE) as fd, Uncompressed(fd, 1 << 30) as stream:
        assert stream.read(0) == b""
        assert stream.read(10) == NOISE[:10]
        assert stream.read(CHUNK) == NOISE[10 : CHUNK + 10]  # from two chunks
        assert stream.read(CHUNK - 10) == NOISE[CHUNK + 10 : 2 * CHUNK]  # up to the end of a chunk
        stream.skip(CHUNK)
        assert stream.read(100) == NOISE[-5:]
        stream.skip(0)
        with pytest.raises(UnpackError, match=CUT_OFF):
            stream.skip(1)


def test_digest_of_a_stream_covers_unread_data_too() -> None:
    with memory(NOISE) as fd, Uncompressed(fd, 1 << 30) as stream:
        stream.read(1)
        stream.drain()
        assert stream.digest() == f"sha256:{hashlib.sha256(NOISE).hexdigest()}"


def test_stream_that_is_closed_before_its_end_leaves_no_thread_or_descriptor() -> None:
    with no_descriptors_left(), memory(bytes(20 * CHUNK)) as fd, Uncompressed(fd, 1 << 30) as stream:
        stream.read(1)
        thread = stream._thread
    thread.join(10)
    assert not thread.is_alive() and stream.size < 20 * CHUNK


def test_compressed_file_counts_the_bytes_that_were_read_from_the_file() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # one message for each read
    with ours, theirs:
        ours.setblocking(False)
        for message in (b"abc", b"defgh"):
            theirs.send(message)
        file = CompressedFile(ours.fileno())
        assert (file.peek(8), file.peek(3), file.consumed) == (b"abcdefgh", b"abc", 0)
        assert (file.read(2), file.consumed) == (b"ab", 2)
        buffer = bytearray(4)
        assert (file.readinto(buffer), bytes(buffer), file.consumed) == (4, b"cdef", 6)
        assert (file.read(), file.consumed) == (b"gh", 8)
        theirs.send(b"more")
        assert (file.read(), file.consumed) == (b"more", 12)
        theirs.close()
        assert (file.peek(8), file.read()) == (b"", b"")
    with memory(b"0123456789") as fd:
        file = CompressedFile(fd)
        assert (file.read(4), file.read(0), file.read(100), file.consumed) == (b"0123", b"", b"456789", 10)


# --- writing


def test_write_whole_writes_all_bytes_after_short_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    with memory() as fd:
        monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:3]))
        write_whole(fd, b"0123456789")
        write_whole(fd, b"")
        assert os.pread(fd, 20, 0) == b"0123456789"


def test_zeros_become_holes() -> None:
    with memory() as fd:
        for data in (bytes(CHUNK), b"data", bytes(CHUNK)):
            write_sparse(fd, memoryview(data))
        assert os.lseek(fd, 0, os.SEEK_CUR) == 2 * CHUNK + 4 and os.fstat(fd).st_size == CHUNK + 4
        assert os.fstat(fd).st_blocks * 512 < CHUNK and os.pread(fd, 10, CHUNK) == b"data"


# --- requests


def received(*parts: bytes) -> object:
    """The request that a worker receives if the daemon sends these messages and then closes its end."""
    ours, theirs = socket.socketpair()

    def send() -> None:
        with theirs:
            for part in parts:
                theirs.sendall(part)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        with ours:
            return receive_request(ours)
    finally:
        sender.join()


def test_request_that_arrives_byte_by_byte_is_read_exactly_to_its_end() -> None:
    """`Connection.recv` returns one byte at a time."""
    whole = encode(Decompress(7))

    class Connection(socket.socket):
        def recvmsg(self, size: int, *more: int) -> tuple[bytes, list[tuple[int, int, bytes]], int, object]:
            return self.recv(size), [], 0, None

        def recv(self, size: int, flags: int = 0) -> bytes:
            return super().recv(min(size, 1))

    ours, theirs = socket.socketpair()
    with theirs, Connection(fileno=ours.detach()) as connection:
        theirs.sendall(whole + b"\1")
        assert receive_request(connection) == (Decompress(7), [])
        assert connection.recv(9) == b"\1", "it has read no further than its request"


def test_descriptors_are_received_with_a_request() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, memory(b"content") as fd:
        socket.send_fds(theirs, [encode(Decompress(7))], [fd])
        request, (copy,) = receive_request(ours)
        try:
            assert request == Decompress(7) and os.pread(copy, 10, 0) == b"content"
        finally:
            os.close(copy)


def test_size_of_a_request_is_limited() -> None:
    overhead = len(encode(Stream(("x" * 70_000,)))) - HEADER.size - 70_000
    largest = Stream(("x" * (FRAME_LIMIT - overhead),))
    frame = encode(largest)
    assert len(frame) == HEADER.size + FRAME_LIMIT
    assert received(frame) == (largest, [])
    with pytest.raises(ValueError, match=f"^a request of {FRAME_LIMIT + 1} bytes exceeds the limit of {FRAME_LIMIT}$"):
        received(HEADER.pack(FRAME_LIMIT + 1))


@pytest.mark.parametrize("parts", [(), (b"\1",), (HEADER.pack(5),), (HEADER.pack(5), b"1234")])
def test_disconnect_of_the_daemon_raises_eof_error(parts: tuple[bytes, ...]) -> None:
    with pytest.raises(EOFError, match="the daemon closed the connection"):
        received(*parts)
