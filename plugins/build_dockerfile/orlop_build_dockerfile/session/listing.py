"""Checks the entries that a sender lists, and compares them with the existing entries. The sender is not trusted. This
module does no I/O.

Entries come in the order of a walk: a directory comes before its entries, and these are sorted by the bytes of their names.
This order ensures that each path is listed once, and below a listed directory. So no entry replaces a directory that
contains another entry.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from enum import Enum, auto
from typing import NamedTuple

from orlop_build_dockerfile.contracts import BuildFailed

__all__ = ["ENTRIES", "Action", "Entry", "Known", "Listing"]

ENTRIES = 2_000_000
_PATH_MAX, _NAME_MAX = 4095, 255
_MAX_64 = (1 << 63) - 1


class Known(NamedTuple):
    """An existing entry. `link` is the target of a symbolic link."""

    mode: int
    uid: int
    gid: int
    size: int
    modified: int
    inode: int
    device: int
    link: bytes = b""


class Entry(NamedTuple):
    """An entry in the sender's list. `link` is the target of a symbolic link. For a regular file that is a hard link, `link`
    is the path of an earlier file. `device` has the form of `st_rdev`; `modified` is in nanoseconds."""

    path: bytes
    mode: int
    uid: int = 0
    gid: int = 0
    size: int = 0
    modified: int = 0
    link: bytes = b""
    device: int = 0
    xattrs: Mapping[str, bytes] = {}


class Action(Enum):
    KEEP = auto()
    MAKE = auto()
    """Make a directory, symbolic link or node."""
    REQUEST = auto()
    """Ask the sender for the bytes."""
    LINK = auto()
    """Make a hard link, once all files exist."""


def _refused(path: bytes, reason: str) -> BuildFailed:
    return BuildFailed(
        f"the client sent the path {path[:200].decode('utf-8', 'backslashreplace')!r}, which is {reason}", code=3
    )


class Listing:
    """`known` are the existing entries, by path. `owners`: whether owners are compared. An unprivileged receiver does not
    compare them, because it cannot set them."""

    def __init__(self, known: Mapping[bytes, Known], *, owners: bool = True) -> None:
        self._known, self._owners = known, owners
        self._listed: dict[bytes, int] = {b"": stat.S_IFDIR}  # path -> file type
        self._same: set[bytes] = set()  # regular files whose content has not changed
        self._last: list[bytes] = []
        self.count = 0

    def add(self, entry: Entry) -> Action:
        """The action for the next entry. Raises BuildFailed if the entry is invalid."""
        self.count += 1
        if self.count > ENTRIES:
            raise BuildFailed(f"the client sent more than {ENTRIES} files", code=8)
        self._check(entry)
        kind = stat.S_IFMT(entry.mode)
        self._listed[entry.path] = kind
        known = self._known.get(entry.path)
        if kind == stat.S_IFREG:
            return self._file(entry, known)
        if known is None or not self._equal(entry, known):
            return Action.MAKE
        if kind == stat.S_IFLNK:
            same = known.link == entry.link and known.modified == entry.modified
        else:
            same = kind == stat.S_IFDIR or known.device == entry.device
        return Action.KEEP if same else Action.MAKE

    def _check(self, entry: Entry) -> None:
        path = entry.path
        parent, _, name = path.rpartition(b"/")
        if name in (b"", b".", b"..") or b"\0" in path or len(name) > _NAME_MAX or len(path) > _PATH_MAX:
            raise _refused(path, "invalid")
        if self._listed.get(parent) != stat.S_IFDIR:
            raise _refused(path, "in a directory that it has not sent")
        parts = path.split(b"/")
        if parts <= self._last:
            raise _refused(path, "out of order")
        self._last = parts
        if b"\0" in entry.link or len(entry.link) > _PATH_MAX:
            raise _refused(path, "a link to an invalid path")
        if not -_MAX_64 <= entry.modified <= _MAX_64 or entry.size < 0:
            raise _refused(path, "a file with an invalid time or size")

    def _equal(self, entry: Entry, known: Known) -> bool:
        same_mode = entry.mode == known.mode or (stat.S_ISLNK(entry.mode) and stat.S_ISLNK(known.mode))
        return same_mode and (not self._owners or (entry.uid, entry.gid) == (known.uid, known.gid))

    def _file(self, entry: Entry, known: Known | None) -> Action:
        equal = (
            known is not None and self._equal(entry, known) and known.size == entry.size and known.modified == entry.modified
        )
        if not entry.link:
            if equal:
                self._same.add(entry.path)
            return Action.KEEP if equal else Action.REQUEST
        if self._listed.get(entry.link) != stat.S_IFREG or entry.link == entry.path:
            raise _refused(entry.path, "a hard link to a file that it has not sent")
        first = self._known.get(entry.link)
        if equal and entry.link in self._same and known and first and known.inode == first.inode:
            self._same.add(entry.path)
            return Action.KEEP
        return Action.LINK

    def changed(self, path: bytes) -> None:
        """Called when the received content of a file differs from the existing content."""
        self._same.discard(path)

    def stale(self) -> list[bytes]:
        """The existing entries that were not listed, entries before their directories. Entries of a directory that was
        replaced are already removed."""
        found: list[bytes] = []
        gone: set[bytes] = set()
        for path in sorted(self._known, key=lambda path: path.split(b"/")):
            above = path.rpartition(b"/")[0]
            if above in gone or self._listed.get(above, stat.S_IFDIR) != stat.S_IFDIR:
                gone.add(path)
            elif path not in self._listed:
                found.append(path)
        return found[::-1]
