"""Copying of many small files by two processes.

Most of the time of such a copy is spent in the kernel, for the creation of the files. One process, the owner of the copy,
walks the tree and makes the directories. It sends some of the files in batches to the other process, the helper, and copies
the remaining files itself. Only descriptors of directories are passed, so the helper needs no paths of the host.

The connection is a SOCK_SEQPACKET. Each message of the owner is a `Batch` with two descriptors: the source directory and the
target directory. The helper answers each batch, in order, with the names that it could not copy. The owner then copies these
files itself, so errors are raised in the owner only. The helper ends when the owner closes the connection.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

import msgspec

from . import linux
from .files import copy_content, copy_xattrs

__all__ = ["Attributes", "Batch", "Helper", "copy_file", "finish_copy", "serve"]

T = TypeVar("T")
Owner = tuple[int, int] | None

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SMALL = 256 << 10
_MESSAGE = 128 << 10  # bytes; smaller than the default send buffer of a socket
_WAITING = 2  # batches; while the helper works on a batch, the next batch is already in the socket


class Attributes(msgspec.Struct, frozen=True, array_like=True):
    """The owner (uid, gid) and the times (ns) that each copy gets. If a field is None, the copy gets the value of its
    source."""

    owner: tuple[int, int] | None = None
    time_ns: int | None = None


class Batch(msgspec.Struct, frozen=True, array_like=True):
    """Regular files of one directory, each with the permissions of its copy."""

    files: Sequence[tuple[str, int]]
    attributes: Attributes


_encode = msgspec.msgpack.Encoder().encode
_decode_batch = msgspec.msgpack.Decoder(Batch).decode
_decode_names = msgspec.msgpack.Decoder(list[bytes]).decode


def copy_file(
    source: int, name: str, target: int, new: str, mode: int | Callable[[int], int], attributes: Attributes
) -> None:
    """Copy a regular file to a path that does not exist yet. `source` and `target` are descriptors of directories. `mode` is
    the permissions of the copy, or a function that computes the permissions from the source's `st_mode`. Raises `OSError`:
    `FileExistsError` if the target exists."""
    reader = os.open(name, _READ, dir_fd=source)
    try:
        info = os.fstat(reader)
        writer = os.open(new, _WRITE, 0o600, dir_fd=target)
        try:
            if info.st_size > _SMALL:
                copy_content(reader, writer, info)
            elif info.st_size:
                _write(writer, os.read(reader, info.st_size))
            finish_copy(reader, writer, info, mode if isinstance(mode, int) else mode(info.st_mode), attributes)
        finally:
            os.close(writer)
    finally:
        os.close(reader)


def _write(fd: int, data: bytes) -> None:
    done = os.write(fd, data)
    while done < len(data):
        done += os.write(fd, data[done:])


def finish_copy(source: int, target: int, info: os.stat_result, mode: int, attributes: Attributes) -> None:
    """Set the owner, mode, extended attributes and times of a new file or directory. The order is important, because chown
    clears mode bits and capabilities, and every change of the content changes the times."""
    owner = attributes.owner or (info.st_uid, info.st_gid)
    if owner != (os.geteuid(), os.getegid()) or stat.S_ISDIR(info.st_mode):
        os.fchown(target, *owner)
    os.fchmod(target, mode)
    copy_xattrs(source, target, ignored=(errno.EINVAL,))
    time = attributes.time_ns
    os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns) if time is None else (time, time))


# --- the helper


def serve(connection: socket.socket) -> None:
    """Copy the batches that the owner sends, until the connection ends. Blocks."""
    while True:
        try:
            data, fds = linux.receive_fds(connection, _MESSAGE, 2)
        except ConnectionResetError:
            return
        try:
            if not data:
                return
            source, target = fds
            answer = _encode(_copy(source, target, _decode_batch(data)))
        finally:
            for fd in fds:
                os.close(fd)
        try:
            connection.send(answer)
        except (BrokenPipeError, ConnectionResetError):
            return


def _copy(source: int, target: int, batch: Batch) -> list[bytes]:
    failed = []
    for name, mode in batch.files:
        try:
            copy_file(source, name, target, name, mode, batch.attributes)
        except OSError:
            failed.append(os.fsencode(name))
    return failed


# --- the owner


class Helper(Generic[T]):
    """The owner's side of the connection. `start` starts the helper process, and returns the owner's end of the connection.
    `start` is called at the first batch. If the helper process ends early, `take` returns the batches that it has not
    answered, with the names of all their files, and `give` accepts no more batches. Methods block."""

    def __init__(self, start: Callable[[], socket.socket]) -> None:
        self._start = start
        self._connection: socket.socket | None = None
        self._ended = False
        self._waiting: deque[tuple[T, Batch]] = deque()

    def give(self, source: int, target: int, batch: Batch, label: T) -> bool:
        """Send a batch. Returns false if the helper cannot take it; the caller must then copy the files itself. Call `take`
        between two calls of `give`."""
        if self._ended or len(self._waiting) >= _WAITING:
            return False
        try:
            data = _encode(batch)
        except UnicodeEncodeError:  # a name that is not valid UTF-8
            return False
        if len(data) > _MESSAGE:
            return False
        if self._connection is None:
            self._connection = self._start()
        try:
            socket.send_fds(self._connection, [data], [source, target])
        except OSError:
            self._ended = True
            return False
        self._waiting.append((label, batch))
        return True

    def take(self, *, wait: bool = False) -> tuple[T, list[str]] | None:
        """The label of the next finished batch, and the names of its files that were not copied. None if no batch is with
        the helper. If `wait` is false, also None if the helper has not finished a batch yet."""
        if not self._waiting:
            return None
        failed = None if self._ended else self._answer(wait)
        if failed is None and not self._ended:
            return None
        label, batch = self._waiting.popleft()
        return label, [name for name, _ in batch.files if failed is None or os.fsencode(name) in failed]

    def _answer(self, wait: bool) -> list[bytes] | None:
        """The names in the helper's next answer. None if there is no answer yet, or if the connection has ended (`_ended` is
        then set)."""
        assert self._connection is not None
        try:
            data = self._connection.recv(_MESSAGE, 0 if wait else socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        if not data:
            self._ended = True
            return None
        return _decode_names(data)

    def close(self) -> None:
        """Wait until the helper has finished all its batches, then close the connection."""
        while self.take(wait=True):
            pass
        if self._connection is not None:
            with suppress(OSError):
                self._connection.close()
