"""The directories on disk. All functions block; call them on worker threads."""

from __future__ import annotations

import base64
import ctypes
import os
import secrets
import stat
from contextlib import suppress
from dataclasses import dataclass

from orlop_sdk import Drift, DriverError
from orlop_sdk.files import Trash, filesystem_type, spread_directories
from orlop_sdk.snapshots import SnapshotIndex, fsync_directory

__all__ = ["Layout", "Snapshot"]

_libc = ctypes.CDLL(None, use_errno=True)
_libc.opendir.restype = _libc.readdir.restype = ctypes.c_void_p
_libc.readdir.argtypes = _libc.closedir.argtypes = [ctypes.c_void_p]
_FEW = 64  # smaller layers are synced file by file: syncfs waits for the dirty data of all processes


@dataclass(slots=True)
class Snapshot:
    """`link` is the short name of a committed snapshot. `lowers` are the paths of all parents below the root, by their short
    names, uppermost first. `children` is the number of snapshots on top of this one. `marked`: it may have been mounted
    volatile; true after a restart."""

    id: str
    parent: str | None = None
    link: str = ""
    lowers: tuple[str, ...] = ()
    committed: bool = False
    children: int = 0
    broken: bool = False
    marked: bool = True

    def as_lower(self) -> tuple[str, ...]:
        """The lower layers of a snapshot on top of this one."""
        return (f"l/{self.link}" if self.link else f"{self.id}/diff", *self.lowers)


class Layout:
    def __init__(self, root: str) -> None:
        self.root = root
        self._private = os.path.join(root, ".orlop")
        self._staging = os.path.join(self._private, "staging")
        self._links = os.path.join(root, "l")
        self.index = SnapshotIndex(self._private)
        self.trash: Trash | None = None

    def path(self, snapshot: Snapshot, *names: str) -> str:
        """The directory of a snapshot, or one below it. `diff` of an adopted snapshot of containerd is a link to a directory
        of another name: the path of that directory, which may be opened without following links."""
        path = os.path.join(self.root, snapshot.id, *names)
        return os.path.realpath(path) if names and os.path.islink(path) else path

    # --- start

    def load(self) -> dict[str, Snapshot]:
        """Complete or undo operations that a crash interrupted. Returns all snapshots by key."""
        for directory in (self._links, self._private, self._staging):
            os.makedirs(directory, 0o700, exist_ok=True)
        spread_directories(self._staging)
        if not _tells_types(self.root):
            raise DriverError(
                f"cannot use overlay2 on {self.root}: its file system, {filesystem_type(self.root)}, does not keep the "
                "types of files in directories (d_type). Format xfs with ftype=1, or use the vfs storage driver"
            )
        self.trash = Trash(os.path.join(self._private, "trash"))
        for name in os.listdir(self._staging):
            self.trash.take(os.path.join(self._staging, name))
        links = self._load_links()
        records = self.index.load()
        keys = {record.id: key for key, record in records.items()}
        found: dict[str, Snapshot] = {}
        for key, record in records.items():
            if os.path.isdir(os.path.join(self.root, record.id, "diff")):
                parent = None if record.parent is None else keys.get(record.parent, "")
                link = links.get(record.id, "")
                if record.committed and not link:
                    link = self._new_link(record.id)
                found[key] = Snapshot(record.id, parent, link, committed=record.committed)
            elif not self._is_dangling(record.id):
                self.index.drop(key, committed=record.committed)
        for key in found:
            self._stack(found, key)
        return found

    def _is_dangling(self, ident: str) -> bool:
        """Whether the directory, or its files, are a link to what is not there. The disk of a dockerd whose data was adopted
        may not be mounted: the snapshot is left out until a later start finds its files."""
        directory = os.path.join(self.root, ident)
        return os.path.islink(directory) or os.path.islink(os.path.join(directory, "diff"))

    def _load_links(self) -> dict[str, str]:
        links = {}
        for link in os.listdir(self._links):
            path = os.path.join(self._links, link)
            if not os.path.islink(path):
                continue  # not made by this driver
            ident = os.path.basename(os.path.dirname(os.readlink(path)))
            leads_here = os.readlink(path) == f"../{ident}/diff"
            if ident and leads_here and os.path.lexists(os.path.join(self.root, ident)):
                links[ident] = link
            else:
                os.unlink(path)
        return links

    def _stack(self, found: dict[str, Snapshot], key: str) -> None:
        """Compute the lower layers of `key` and its parents, and count children. A snapshot whose parent is lost is
        broken."""
        chain = []
        while key in found and not found[key].lowers and found[key].parent is not None:
            chain.append(found[key])
            key = found[key].parent or ""
        for snapshot in reversed(chain):
            parent = found.get(snapshot.parent or "")
            if parent is None or parent.broken:
                snapshot.broken = True
                continue
            parent.children += 1
            snapshot.lowers = parent.as_lower()

    # --- snapshots

    def _new_link(self, ident: str) -> str:
        while True:
            link = base64.b32encode(secrets.token_bytes(17)).decode()[:26]
            try:
                os.symlink(f"../{ident}/diff", os.path.join(self._links, link))
                return link
            except FileExistsError:
                continue

    def create(self, key: str, parent: Snapshot | None, parent_key: str | None) -> Snapshot:
        ident = secrets.token_hex(32)
        snapshot = Snapshot(ident, parent_key, lowers=parent.as_lower() if parent else (), marked=False)
        staged = os.path.join(self._staging, ident)
        # Modes are set explicitly, because the daemon may run with umask 022 or 077.
        os.mkdir(staged, 0o710)
        os.mkdir(os.path.join(staged, "diff"))
        os.chmod(os.path.join(staged, "diff"), 0o755)  # noqa: S103 - it becomes the root of a container
        if parent:
            os.mkdir(os.path.join(staged, "work"), 0o700)
        # The key first: `load` drops a key without a directory, but a directory without a key may belong to dockerd
        self.index.add(key, ident, parent.id if parent else None)
        try:
            os.rename(staged, self.path(snapshot))
        except BaseException:
            self.index.drop(key, committed=False)
            raise
        return snapshot

    def rebase(self, snapshot: Snapshot, key: str, below: Snapshot) -> None:
        """Put an active snapshot without a parent on one. Made durable by `commit`."""
        self.index.set_parent(key, snapshot.id, below.id)

    def commit(self, snapshot: Snapshot, key: str, name: str) -> None:
        directory = self.path(snapshot)
        marker = os.open(os.path.join(directory, "committed"), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.close(marker)
        if not _sync_few(directory):
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                if _libc.syncfs(fd) < 0:
                    number = ctypes.get_errno()
                    raise OSError(number, os.strerror(number), directory)
            finally:
                os.close(fd)
        snapshot.link = snapshot.link or self._new_link(snapshot.id)
        fsync_directory(self._links)
        fsync_directory(self.root)
        self.index.commit(key, name)

    def remove(self, snapshot: Snapshot, key: str) -> None:
        """Remove the directory, then the key: `load` drops a key without a directory after a crash between the two."""
        assert self.trash
        self.trash.take(self.path(snapshot))
        self.index.drop(key, committed=snapshot.committed)
        if snapshot.link:
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(self._links, snapshot.link))

    def audit(self) -> list[Drift]:
        """Compare the index with the directories. Changes nothing."""
        present = {name for name in os.listdir(self.root) if os.path.isdir(os.path.join(self.root, name, "diff"))}
        return self.index.compare(present, self._is_empty)

    def _is_empty(self, ident: str) -> bool:
        return not os.listdir(os.path.join(self.root, ident, "diff"))

    def discard(self, ident: str) -> None:
        """Remove a directory if it is empty and belongs to no snapshot."""
        if os.path.isdir(os.path.join(self.root, ident, "diff")) and not self.index.knows(ident) and self._is_empty(ident):
            trash = self.trash or Trash(os.path.join(self._private, "trash"))
            trash.take(os.path.join(self.root, ident))

    def allow_remount(self, snapshot: Snapshot) -> None:
        """Remove the mark of a volatile mount, because of which the kernel would refuse the next mount
        (Documentation/filesystems/overlayfs.rst, "Volatile mount"). Volatile data may be lost by definition."""
        mark = self.path(snapshot, "work", "work", "incompat")
        if os.path.isdir(mark):
            assert self.trash
            self.trash.take(mark)


def _sync_few(directory: str) -> bool:
    """Sync a small tree of regular files and directories. Returns false, possibly after syncing a part, when the tree is
    large or has other types of files."""
    waiting, seen = [directory], 0
    while waiting:
        here = waiting.pop()
        with os.scandir(here) as entries:
            for entry in entries:
                seen += 1
                info = entry.stat(follow_symlinks=False)
                if seen > _FEW or not (stat.S_ISREG(info.st_mode) or stat.S_ISDIR(info.st_mode)):
                    return False
                if stat.S_ISDIR(info.st_mode):
                    waiting.append(entry.path)
                else:
                    fd = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                    try:
                        os.fsync(fd)
                    finally:
                        os.close(fd)
        fsync_directory(here)
    return True


class _Dirent(ctypes.Structure):
    _fields_ = (
        ("ino", ctypes.c_uint64),
        ("off", ctypes.c_int64),
        ("reclen", ctypes.c_uint16),
        ("type", ctypes.c_uint8),
        ("name", ctypes.c_char * 256),
    )


def _tells_types(directory: str) -> bool:
    """Whether the file system stores file types in directories (d_type), which overlayfs needs to recognize whiteouts."""
    stream = _libc.opendir(os.fsencode(directory))
    if not stream:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), directory)
    try:
        while entry := _libc.readdir(stream):
            dirent = ctypes.cast(entry, ctypes.POINTER(_Dirent)).contents
            if dirent.name not in (b".", b"..") and dirent.type == 0:
                return False
        return True
    finally:
        _libc.closedir(stream)
