"""A directory that receives files of a client. All functions block.

Every file is opened relative to a file descriptor of its directory, and directories are opened relative to the root. So no
path of the client leads out of the root, even if the client has sent links. Files are replaced, never overwritten, because
other paths may be hard links to them.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import OrderedDict
from collections.abc import Mapping

from orlop_build_dockerfile.session.listing import Entry, Known
from orlop_sdk import linux
from orlop_sdk.files import delete_tree

__all__ = ["Tree"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_DIRECTORIES = 16
_WHITEOUT = 0  # a character device of overlayfs, which hides a file of the layers below


class Tree:
    """The directory. Close it after use. `root` is a file descriptor. `owners`: whether owners are set, which only root can
    do."""

    def __init__(self, root: str) -> None:
        self.root = os.open(root, _DIRECTORY)
        self.owners = os.geteuid() == 0
        self._parents: OrderedDict[bytes, int] = OrderedDict()

    def close(self) -> None:
        for fd in (self.root, *self._parents.values()):
            os.close(fd)
        self._parents.clear()

    def scan(self) -> dict[bytes, Known]:
        """All entries, by path."""
        found: dict[bytes, Known] = {}
        waiting = [b""]
        while waiting:
            above = waiting.pop()
            fd = self._open_directory(above) if above else os.dup(self.root)
            try:
                with os.scandir(fd) as entries:
                    for entry in entries:
                        info = entry.stat(follow_symlinks=False)
                        name = os.fsencode(entry.name)
                        path = above + b"/" + name if above else name
                        link = os.fsencode(os.readlink(name, dir_fd=fd)) if stat.S_ISLNK(info.st_mode) else b""
                        found[path] = Known(
                            info.st_mode,
                            info.st_uid,
                            info.st_gid,
                            info.st_size,
                            info.st_mtime_ns,
                            info.st_ino,
                            info.st_rdev if stat.S_ISBLK(info.st_mode) or stat.S_ISCHR(info.st_mode) else 0,
                            link,
                        )
                        if stat.S_ISDIR(info.st_mode):
                            waiting.append(path)
            finally:
                os.close(fd)
        return found

    def _open_directory(self, path: bytes) -> int:
        return linux.open_beneath(self.root, path, os.O_RDONLY | os.O_DIRECTORY, symlinks=False)

    def _parent(self, path: bytes) -> tuple[int, bytes]:
        """A file descriptor of the directory that contains `path`, and the name in this directory. The caller must not close
        the descriptor."""
        above, _, name = path.rpartition(b"/")
        if not above:
            return self.root, name
        fd = self._parents.get(above)
        if fd is None:
            fd = self._parents[above] = self._open_directory(above)
            if len(self._parents) > _OPEN_DIRECTORIES:
                os.close(self._parents.popitem(last=False)[1])
        else:
            self._parents.move_to_end(above)
        return fd, name

    def remove(self, path: bytes) -> None:
        """Remove an entry and all entries below it. It is no error if the entry does not exist."""
        try:
            parent, name = self._parent(path)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            return  # the directory has been replaced by a link
        try:
            os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            pass
        except (IsADirectoryError, PermissionError):
            try:
                os.rmdir(name, dir_fd=parent)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                self._forget(path)
                delete_tree(f"/proc/self/fd/{parent}/./{os.fsdecode(name)}")
            self._forget(path)

    def _forget(self, path: bytes) -> None:
        """Close the descriptors of a directory that is removed, and of the directories below it."""
        for each in [p for p in self._parents if p == path or p.startswith(path + b"/")]:
            os.close(self._parents.pop(each))

    def make(self, entry: Entry, known: Known | None) -> None:
        """Make a directory, a symbolic link, a pipe or a device. `known` is the existing entry. An existing directory keeps
        its entries. Sockets are omitted, because no process can listen on them."""
        kind = stat.S_IFMT(entry.mode)
        stays = known is not None and kind == stat.S_IFDIR and stat.S_ISDIR(known.mode)
        if known is not None and not stays:
            self.remove(entry.path)
        parent, name = self._parent(entry.path)
        if kind == stat.S_IFDIR:
            if not stays:
                os.mkdir(name, 0o700, dir_fd=parent)
        elif kind == stat.S_IFLNK:
            os.symlink(entry.link, name, dir_fd=parent)
        elif kind == stat.S_IFIFO:
            os.mkfifo(name, 0o600, dir_fd=parent)
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            if entry.device == _WHITEOUT:
                raise PermissionError(errno.EPERM, "the device number 0:0 is reserved", os.fsdecode(entry.path))
            os.mknod(name, kind | 0o600, entry.device, dir_fd=parent)
        else:
            return
        if self.owners:
            os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        if kind != stat.S_IFLNK:
            os.chmod(name, stat.S_IMODE(entry.mode), dir_fd=parent)  # safe, because the entry was just made and is no link
        if kind == stat.S_IFDIR and entry.xattrs:
            fd = os.open(name, _DIRECTORY, dir_fd=parent)
            try:
                _set_xattrs(fd, entry.xattrs)
            finally:
                os.close(fd)
        elif kind != stat.S_IFDIR:
            os.utime(name, ns=(entry.modified, entry.modified), dir_fd=parent, follow_symlinks=False)

    def create(self, path: bytes, *, replace: bool) -> int:
        """A new empty file, open for writing."""
        if replace:
            self.remove(path)
        parent, name = self._parent(path)
        return os.open(name, _NEW, 0o600, dir_fd=parent)

    def finish(self, fd: int, entry: Entry) -> None:
        """Set the attributes of a file according to its entry, and close it."""
        try:
            if self.owners and (entry.uid or entry.gid):
                os.fchown(fd, entry.uid, entry.gid)
            os.fchmod(fd, stat.S_IMODE(entry.mode))
            if entry.xattrs:
                _set_xattrs(fd, entry.xattrs)
            os.utime(fd, ns=(entry.modified, entry.modified))
        finally:
            os.close(fd)

    def link(self, entry: Entry) -> None:
        """Make a hard link to the file in the entry."""
        self.remove(entry.path)
        source_parent, source = self._parent(entry.link)
        held = os.dup(source_parent)  # `_parent` may close it
        try:
            parent, name = self._parent(entry.path)
            os.link(source, name, src_dir_fd=held, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(held)

    def same_xattrs(self, path: bytes, xattrs: Mapping[str, bytes]) -> bool:
        parent, name = self._parent(path)
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=parent)
        try:
            found = {key: os.getxattr(fd, key) for key in os.listxattr(fd) if _carried(key)}
        finally:
            os.close(fd)
        return found == {key: value for key, value in xattrs.items() if _carried(key)}

    def set_time(self, path: bytes, modified: int) -> None:
        parent, name = self._parent(path)
        os.utime(name, ns=(modified, modified), dir_fd=parent, follow_symlinks=False)


def _carried(key: str) -> bool:
    """Whether an extended attribute is copied. Attributes of overlayfs ("trusted."), access control lists ("system.") and
    security labels are not copied. In "security.", only file capabilities are copied, because all others belong to the
    host's policy."""
    return key.startswith("user.") or key == "security.capability"


def _set_xattrs(fd: int, xattrs: Mapping[str, bytes]) -> None:
    for key, value in xattrs.items():
        if _carried(key):
            try:
                os.setxattr(fd, key, value)
            except OSError as error:
                if error.errno not in (errno.ENOTSUP, errno.EPERM):
                    raise
