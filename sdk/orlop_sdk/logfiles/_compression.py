"""Compresses a rotated file beside the monitor's loop, and reads what was compressed.

A thread: deflate and the file's reads and writes release the interpreter's lock, so the container's output goes on.
A child process would inherit every fd of the monitor. Until the rename at its end the plain file stays and is what readers
see; a crash leaves at worst a `.tmp`, and the next open compresses again.
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
    from isal import isal_zlib as deflate  # what the daemon brings: five times faster
except ImportError:
    import zlib as deflate  # type: ignore[no-redef]

__all__ = ["Compression", "Header", "read_header", "unpack"]

_CHUNK = 1 << 20
_LEVEL = 2  # of isal's 0..3, of zlib's 1..9
_FEXTRA = 0x04
_FIXED = struct.Struct("<2sBBLBB")

log = logging.getLogger("orlop.log")


class Header(msgspec.Struct, frozen=True, omit_defaults=True):
    """The gzip header's Extra field, JSON as dockerd writes it. `inode` is our addition: the inode of the file before
    it was compressed, by which a reader that still holds that one open knows where it stands."""

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
    """One file being compressed: PATH to PATH.gz."""

    def __init__(self, path: str, last_time: str) -> None:
        self._path = path
        self._last_time = last_time
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="orlop-log-gzip", daemon=True)
        self._thread.start()

    def wait(self, timeout: float | None = None) -> None:
        """Wait for the end; after `timeout` seconds give up and leave the plain file as it is."""
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
            pass  # never made, or as lost as the disk it is on

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
    """The Extra field of a compressed file; an empty `Header` when it has none of ours or dockerd's."""
    start = os.pread(fd, 12 + 4096, 0)
    if len(start) < 12 or start[:2] != b"\x1f\x8b" or not start[3] & _FEXTRA:
        return Header()
    (length,) = struct.unpack_from("<H", start, 10)
    try:
        return _decode(start[12 : 12 + length])
    except msgspec.MsgspecError:
        return Header()


def unpack(fd: int) -> Iterator[bytes]:
    """The contents of a compressed file, from its beginning, in pieces of at most 1 MiB. Ends early where it is damaged."""
    unpacker = deflate.decompressobj(31)
    offset = 0
    while not unpacker.eof:
        data = unpacker.unconsumed_tail
        if not data:
            data = os.pread(fd, 1 << 18, offset)
            offset += len(data)
        try:
            piece = unpacker.decompress(data, _CHUNK)
        except deflate.error:  # type: ignore[misc]  # a class; its stub says an instance
            return
        if piece:
            yield piece
        elif not data:
            return
