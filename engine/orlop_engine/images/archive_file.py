"""Reads an image archive that a client sent. The tar is spooled and indexed, but never extracted.

No name in the archive becomes a path on this host. Members are looked up in a table, symlinks lead only to other members,
and content is read by offset from an unnamed file.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from dataclasses import dataclass

import trio

from orlop_monitor.unpack.archive import entries
from orlop_monitor.unpack.errors import UnpackError
from orlop_monitor.unpack.stream import CompressedFile, decompress, sniff
from orlop_sdk import DriverError, InvalidParameter

from .content import ContentStore

__all__ = ["Archive", "Member", "receive"]

_BATCH = 1 << 20
_MAX_MEMBERS = 1 << 17
_MAX_LINKS = 16
_MAX_SMALL = 64 << 20  # total bytes of members read whole: the manifests of 4,096 images are some 40 MiB


@dataclass(frozen=True, slots=True)
class Member:
    """Offset and size of a regular file's content."""

    offset: int
    size: int


class _File:
    """The spooled file as a source of `unpack.archive.entries`."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._size = os.fstat(fd).st_size
        self.at = 0

    def read(self, size: int) -> bytes:
        data = os.pread(self._fd, size, self.at)
        self.at += len(data)
        return data

    def skip(self, size: int) -> None:
        self.at += size
        if self.at > self._size:
            raise UnpackError("unexpected EOF")


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _spool(content: ContentStore, fd: int, data: bytes) -> None:
    content.space.check("store the archive", stored=len(data))
    _write(fd, data)


def _expand(content: ContentStore, fd: int) -> int:
    """Returns the descriptor itself, or one of its decompressed content. Closes the other one."""
    os.lseek(fd, 0, os.SEEK_SET)
    if not sniff(os.pread(fd, 8, 0)):
        return fd
    plain = content.spool()
    try:
        for data in decompress(CompressedFile(fd)):
            _spool(content, plain, data)
    except (OSError, DriverError):
        os.close(plain)
        raise
    except Exception as error:
        os.close(plain)
        raise InvalidParameter(f"cannot decompress the archive: {error}") from error
    os.close(fd)
    return plain


async def receive(content: ContentStore, body: AsyncIterable[bytes]) -> Archive:
    """Spool a body, decompress it if needed, and read its table. Raises `InvalidParameter` if it is no tar archive."""
    fd = content.spool()
    try:
        pending: list[bytes] = []
        waiting = 0
        async for piece in body:
            pending.append(piece)
            waiting += len(piece)
            if waiting >= _BATCH:
                await trio.to_thread.run_sync(_spool, content, fd, b"".join(pending))
                pending, waiting = [], 0
        await trio.to_thread.run_sync(_spool, content, fd, b"".join(pending))
        fd = await trio.to_thread.run_sync(_expand, content, fd)
        return await trio.to_thread.run_sync(Archive, fd)
    except BaseException:
        os.close(fd)
        raise


class Archive:
    """The members of a tar archive. Owns the descriptor; call `close`."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._files: dict[str, Member] = {}
        self._links: dict[str, str] = {}
        self._small = 0
        file = _File(fd)
        try:
            for entry in entries(file):
                content = Member(file.at, entry.size) if entry.segments is None else None  # None: a sparse file
                self._note(_normal(_text(entry.name)), entry.type, _text(entry.link), content)
                file.skip(entry.size)
        except UnpackError as error:
            raise InvalidParameter(f"cannot read the archive: {error}") from error

    def _note(self, name: str, kind: bytes, link: str, content: Member | None) -> None:
        if len(self._files) + len(self._links) >= _MAX_MEMBERS:
            raise InvalidParameter(f"cannot read the archive: it has more than {_MAX_MEMBERS} members")
        self._files.pop(name, None)
        self._links.pop(name, None)
        if kind in (b"0", b"\0", b"7") and content is not None:
            self._files[name] = content
        elif kind == b"1":
            self._links[name] = _normal(link)
        elif kind == b"2":
            self._links[name] = _normal(posixpath.join(posixpath.dirname(name), link))

    def close(self) -> None:
        os.close(self._fd)

    def find(self, name: str) -> Member | None:
        """The regular file with this name, following links within the archive."""
        path = _normal(name)
        for _ in range(_MAX_LINKS):
            if path in self._files:
                return self._files[path]
            path = self._step(path)
            if not path:
                return None
        return None

    def _step(self, path: str) -> str:
        """Resolve one link: of the member itself, or of its nearest parent directory. "" if there is none."""
        head, tail = path, ""
        while head != "/":
            if head in self._links:
                return _normal(posixpath.join(self._links[head], tail))
            head, name = posixpath.split(head)
            tail = posixpath.join(name, tail) if tail else name
        return ""

    def need(self, name: str) -> Member:
        member = self.find(name)
        if member is None:
            raise InvalidParameter(f"cannot read the archive: it has no file {name[:200]!r}")
        return member

    def read(self, name: str, limit: int) -> bytes:
        """The content of a small member. Several names may lead to one member; every read counts towards the limit."""
        member = self.need(name)
        if member.size > limit:
            raise InvalidParameter(f"cannot read the archive: {name[:200]!r} is larger than {limit} bytes")
        self._small += member.size
        if self._small > _MAX_SMALL:
            raise InvalidParameter(f"cannot read the archive: its manifests and configurations have over {_MAX_SMALL} bytes")
        return os.pread(self._fd, member.size, member.offset)

    def pieces(self, member: Member) -> Iterator[tuple[int, int]]:
        """(offset, length) of pieces of at most a MiB, in order."""
        at, end = member.offset, member.offset + member.size
        while at < end:
            yield at, min(_BATCH, end - at)
            at += _BATCH

    async def content(self, member: Member) -> AsyncIterator[bytes]:
        """A large member, piece by piece."""
        for at, length in self.pieces(member):
            yield await trio.to_thread.run_sync(os.pread, self._fd, length, at)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _normal(path: str) -> str:
    """The absolute path without "." and "..", with one leading slash (normpath keeps two)."""
    return "/" + posixpath.normpath("/" + path).lstrip("/")
