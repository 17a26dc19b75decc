"""The members of an image archive that a client sent. Nothing is extracted.

No name in the archive becomes a path on this host. Members are looked up in a table, and symlinks lead only to other
members. The content of small members is in one unnamed file. A larger member, such as a layer, is written to its own
temporary file and hashed at the same time; a rename makes the file a blob. The next start of the daemon removes temporary
files that a crash left.
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

_SMALL = 64 << 10  # bytes; each larger member is written to its own file
_MAX_MEMBERS = 1 << 17
_MAX_LINKS = 16
_MAX_READ = 64 << 20  # total bytes of the members that `read` returns: the manifests of 4,096 images have some 40 MiB


class Source(archive.Source, Protocol):
    """A tar stream, read on a thread."""

    def pieces(self, size: int) -> Iterator[bytes | memoryview]:
        """Yields exactly `size` bytes. Raises `UnpackError` when the stream ends earlier."""
        ...


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file. Its content is in the archive's unnamed file, from `offset` on, or in the temporary file `path`."""

    size: int
    digest: str
    offset: int = 0
    path: str = ""


class Archive:
    """The members of a tar archive. Owns their files; call `close`. Methods block, except for `find` and `need`: call
    them on a thread."""

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
        """Read all members. Raises `UnpackError` if this is no tar archive, and `InvalidParameter` if it has too many
        members."""
        for number, entry in enumerate(entries(source)):
            if number == _MAX_MEMBERS:
                raise InvalidParameter(f"cannot read the archive: it has more than {_MAX_MEMBERS} members")
            member = None
            if entry.segments is not None or entry.type not in (b"0", b"\0", b"7"):
                source.skip(entry.size)  # only plain regular files are used: this is a sparse file, or no regular file
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
        """The regular file with this name; links are followed within the archive. None if there is none."""
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
        """The content of a member, which may have at most `limit` bytes. Several names may lead to one member: each read
        adds to the total, which is limited to `_MAX_READ`."""
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
        """Make a member a blob of the content store, unless the store has the blob already. A lease must hold its
        digest."""
        if self._content.has(member.digest):
            return
        path = member.path
        if not path:
            path = self._content.temporary()
            with open(path, "xb") as file:
                file.write(self._bytes(member))
        self._content.adopt(path, member.digest)


def _remove(member: Member) -> None:
    """Remove the member's file, unless it became a blob."""
    if member.path:
        try:
            os.unlink(member.path)
        except FileNotFoundError:
            pass


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _normal(path: str) -> str:
    """The absolute path without "." and "..", with one leading slash (normpath keeps two)."""
    return "/" + posixpath.normpath("/" + path).lstrip("/")
