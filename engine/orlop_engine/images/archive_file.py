"""The members of an image archive that a client sent. Nothing is extracted.

No name in the archive becomes a path on this host: members are found in a table, and a symlink can only refer to another
member. The content of small members is in one unnamed file. A larger member, such as a layer, is hashed while it is written
to its own temporary file. Renaming this file makes it a blob of the content store. After a crash, the next daemon removes
the temporary files.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from orlop_monitor.unpack import archive
from orlop_monitor.unpack.archive import entries
from orlop_monitor.unpack.header import Entry
from orlop_monitor.unpack.stream import write_sparse, write_whole
from orlop_sdk import InvalidParameter

from .content import ContentStore

__all__ = ["Archive", "Member", "Source"]

_SMALL = 64 << 10  # bytes; a member that is larger gets a file of its own
_MAX_MEMBERS = 1 << 17
_MAX_LINKS = 16
# Limit for the bytes that all calls of `read` return together. The manifests of 4,096 images have some 40 MiB
_MAX_READ = 64 << 20


class Source(archive.Source, Protocol):
    """A tar stream, read on a thread."""

    def pieces(self, size: int) -> Iterator[bytes | memoryview]:
        """Yields exactly `size` bytes. Raises `UnpackError` when the stream ends earlier."""
        ...


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file of the archive. Its content is in the archive's unnamed file, from `offset` on, or in the temporary
    file `path`."""

    size: int
    digest: str
    offset: int = 0
    path: str = ""


class Archive:
    """The members of a tar archive. `close` removes their temporary files. All methods except `find` and `need` block, so
    call them on a thread."""

    def __init__(self, content: ContentStore) -> None:
        self._content = content
        self._fd = content.spool()
        self._end = 0
        self._files: dict[str, Member] = {}
        self._links: dict[str, str] = {}
        self._read = 0

    def close(self) -> None:
        os.close(self._fd)
        for member in self._files.values():
            _remove(member)

    # --- reading the archive ------------------------------------------------------------------------------------------

    def fill(self, source: Source) -> None:
        """Read all members. Raises `UnpackError` if the source is no tar archive, and `InvalidParameter` if the archive has
        too many members."""
        for number, entry in enumerate(entries(source)):
            if number == _MAX_MEMBERS:
                raise InvalidParameter(f"cannot read the archive: it has more than {_MAX_MEMBERS} members")
            member = None
            if entry.segments is not None or entry.type not in (b"0", b"\0", b"7"):
                # This member is a sparse file, or not a regular file, so it is not used
                source.skip(entry.size)
            elif entry.size > _SMALL:
                member = self._store(source, entry.size)
            else:
                member = self._spool(b"".join(source.pieces(entry.size)))
            self._note(entry, member)

    def _spool(self, data: bytes) -> Member:
        member = Member(len(data), f"sha256:{hashlib.sha256(data).hexdigest()}", self._end)
        write_whole(self._fd, data)
        self._end += len(data)
        return member

    def _store(self, source: Source, size: int) -> Member:
        path, digest = self._content.temporary(), hashlib.sha256()
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            for piece in source.pieces(size):
                self._content.space.check("store the archive", stored=len(piece))
                digest.update(piece)
                write_sparse(fd, piece)
            os.ftruncate(fd, size)
        except BaseException:
            os.unlink(path)
            raise
        finally:
            os.close(fd)
        return Member(size, f"sha256:{digest.hexdigest()}", path=path)

    def _note(self, entry: Entry, member: Member | None) -> None:
        name, link = _normal(_text(entry.name)), _text(entry.link)
        before = self._files.pop(name, None)
        if before is not None:
            _remove(before)
        self._links.pop(name, None)
        if member is not None:
            self._files[name] = member
        elif entry.type == b"1":
            self._links[name] = _normal(link)
        elif entry.type == b"2":
            self._links[name] = _normal(posixpath.join(posixpath.dirname(name), link))

    # --- members --------------------------------------------------------------------------------------------------------

    def find(self, name: str) -> Member | None:
        """The regular file with this name; links are followed within the archive. Returns None if there is no such file."""
        path = _normal(name)
        for _ in range(_MAX_LINKS):
            if path in self._files:
                return self._files[path]
            path = self._step(path)
            if not path:
                return None
        return None

    def _step(self, path: str) -> str:
        """Replace one symlink in the path by its target. If several parts of the path are symlinks, the last of them is
        replaced. Returns "" if no part is a symlink."""
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
        """The content of a member, which may have at most `limit` bytes. Every read counts towards the limit `_MAX_READ`,
        even if several names refer to the same member."""
        member = self.need(name)
        if member.size > limit:
            raise InvalidParameter(f"cannot read the archive: {name[:200]!r} is larger than {limit} bytes")
        self._read += member.size
        if self._read > _MAX_READ:
            raise InvalidParameter(f"cannot read the archive: its manifests and configurations have over {_MAX_READ} bytes")
        return self._bytes(member)

    def _bytes(self, member: Member) -> bytes:
        if not member.path:
            return os.pread(self._fd, member.size, member.offset)
        with open(member.path, "rb") as file:
            return file.read()

    def publish(self, member: Member) -> None:
        """Make a member a blob of the content store, unless the store has the blob already. The caller must have added the
        member's digest to a lease."""
        if self._content.has(member.digest):
            return
        path = member.path
        if not path:
            path = self._content.temporary()
            with open(path, "xb") as file:
                file.write(self._bytes(member))
        self._content.adopt(path, member.digest)


def _remove(member: Member) -> None:
    """Remove the member's file, unless the file became a blob."""
    if member.path:
        try:
            os.unlink(member.path)
        except FileNotFoundError:
            pass


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _normal(path: str) -> str:
    """The absolute path without "." and "..". It begins with exactly one slash (normpath keeps two slashes)."""
    return "/" + posixpath.normpath("/" + path).lstrip("/")
