"""Compresses rotated files on a thread, and reads compressed files.

Deflate and file I/O release the interpreter's lock, so the monitor continues to read the container's output. A thread is
used and not a child process, because a child process would inherit every descriptor of the monitor. Readers use the plain
file until the compressed file is renamed into place. A crash may leave a `.tmp` file. The next open for writing then
compresses the plain file again.
"""

from __future__ import annotations

import logging
import os
import struct
import threading
import zlib
from collections.abc import Iterator

import msgspec

try:
    from isal import isal_zlib as deflate  # a dependency of the daemon, five times faster than zlib
except ImportError:
    import zlib as deflate  # type: ignore[no-redef]

__all__ = ["Compression", "Header", "read_header", "unpack"]

_CHUNK = 1 << 20
_LEVEL = 2  # isal has levels 0..3, zlib 1..9
_FEXTRA = 0x04
_FIXED = struct.Struct("<2sBBLBB")

log = logging.getLogger("orlop.log")


class Header(msgspec.Struct, frozen=True, omit_defaults=True):
    """The Extra field of the gzip header: JSON, as written by dockerd. `inode` is Orlop's addition: the inode of the file
    before compression. A reader that still has the plain file open recognizes the compressed file by this inode."""

    last_time: str = msgspec.field(default="", name="lastTime")
    inode: int = 0


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Header).decode


def _gzip(source: int, target: int, header: Header, stop: threading.Event) -> bool:
    extra = _encode(header)
    os.write(target, _FIXED.pack(b"\x1f\x8b", 8, _FEXTRA, 0, 0, 255) + struct.pack("<H", len(extra)) + extra)
    packer = deflate.compressobj(_LEVEL, zlib.DEFLATED, -15)
    crc = size = 0
    while data := os.read(source, _CHUNK):
        if stop.is_set():
            return False
        crc, size = deflate.crc32(data, crc), size + len(data)
        _write_all(target, packer.compress(data))
    _write_all(target, packer.flush() + struct.pack("<LL", crc, size & 0xFFFFFFFF))
    return True


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


class Compression:
    """Compresses one file, PATH to PATH.gz, on a thread."""

    def __init__(self, path: str, last_time: str) -> None:
        self._path = path
        self._last_time = last_time
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="orlop-log-gzip", daemon=True)
        self._thread.start()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the compression has ended. After `timeout` seconds, cancel the compression and leave the plain file
        unchanged."""
        self._thread.join(timeout)
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        temporary = self._path + ".gz.tmp"
        try:
            if self._pack(temporary):
                os.rename(temporary, self._path + ".gz")
                os.unlink(self._path)
                return
        except OSError as error:
            log.warning("cannot compress %s: %s", self._path, error.strerror)
        try:
            os.unlink(temporary)
        except OSError:
            pass  # the file was never created, or the disk fails

    def _pack(self, temporary: str) -> bool:
        source = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            header = Header(self._last_time, os.fstat(source).st_ino)
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
            target = os.open(temporary, flags, 0o640)
            try:
                return _gzip(source, target, header, self._stop)
            finally:
                os.close(target)
        finally:
            os.close(source)


def read_header(fd: int) -> Header:
    """The Extra field of a compressed file. If neither Orlop nor dockerd wrote such a field, the result is an empty
    `Header`."""
    start = os.pread(fd, 12 + 4096, 0)
    if len(start) < 12 or start[:2] != b"\x1f\x8b" or not start[3] & _FEXTRA:
        return Header()
    (length,) = struct.unpack_from("<H", start, 10)
    try:
        return _decode(start[12 : 12 + length])
    except msgspec.MsgspecError:
        return Header()


def unpack(fd: int) -> Iterator[bytes]:
    """Yield the content of a compressed file from its beginning, in pieces of at most 1 MiB. Ends early at damaged data."""
    unpacker = deflate.decompressobj(31)
    offset = 0
    while not unpacker.eof:
        data = unpacker.unconsumed_tail
        if not data:
            data = os.pread(fd, 1 << 18, offset)
            offset += len(data)
        try:
            piece = unpacker.decompress(data, _CHUNK)
        except deflate.error:  # type: ignore[misc]  # a class; the stub declares an instance
            return
        if piece:
            yield piece
        elif not data:
            return
