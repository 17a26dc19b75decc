"""Creates files from archive entries: the part of unpacking that writes to disk.

The rules are those of Docker (moby's archive package), with one difference: a whiteout hides only entries of lower layers.
It never hides entries of its own layer, whether they come before or after the whiteout (OCI image spec, "Whiteouts").
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from .archive import entries
from .errors import UnpackError, shown
from .header import Entry, Segment
from .request import Unpack
from .stream import Uncompressed, write_whole
from .tree import Parent, Tree, clean, is_whiteout, remove
from .whiteout import Whiteouts, whiteouts_for

__all__ = ["extract", "is_accepted_xattr"]

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SPECIAL = {b"3": stat.S_IFCHR, b"4": stat.S_IFBLK, b"6": stat.S_IFIFO}
_UNSUPPORTED = errno.EOPNOTSUPP
_REPLACED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # a later entry replaced the directory or its parent


def is_accepted_xattr(xattr: bytes) -> bool:
    """Whether a layer may set an extended attribute. `trusted.` is refused, because overlayfs's own attributes could make a
    layer refer to other layers. Labels of the host's security modules are refused too."""
    if xattr.startswith(b"user."):
        return not xattr.startswith(b"user.overlay.")
    return xattr in (b"security.capability", b"system.posix_acl_access", b"system.posix_acl_default")


class _Extractor:
    def __init__(self, source: Uncompressed, root: int, request: Unpack, tick: Callable[[], None]) -> None:
        self._source = source
        self._request = request
        self._tick = tick
        self._tree = Tree(root)
        self._whiteouts: Whiteouts = whiteouts_for(self._tree, overlay=request.overlay_whiteouts)
        self._times: dict[bytes, int] = {}

    def run(self) -> int:
        count, limits = 0, self._request.limits
        try:
            for entry in entries(self._source):
                count += 1
                if self._request.owner is not None:
                    entry.uid, entry.gid = self._request.owner
                if count > limits.entries:
                    raise UnpackError(f"it has more than {limits.entries} entries, which is the limit")
                try:
                    self._one(entry)
                except OSError as error:
                    error.filename, error.filename2 = shown(entry.name), None
                    raise
                except (ValueError, OverflowError) as error:
                    raise UnpackError(f"{shown(entry.name)}: {error}") from error
                self._tick()
            self._source.drain()
            self._settle_times()
        finally:
            self._tree.forget()
        return count

    def _one(self, entry: Entry) -> None:
        limits = self._request.limits
        if len(entry.name) > limits.path or len(entry.link) > limits.path:
            raise UnpackError(f"{shown(entry.name)}: the name is longer than {limits.path} bytes, which is the limit")
        path = clean(entry.name)
        if path.count(b"/") >= limits.depth:
            raise UnpackError(f"{shown(entry.name)}: it is more than {limits.depth} directories deep, which is the limit")
        if not path:
            self._source.skip(entry.size)
            return  # the attributes of the root are set by the storage driver, as in Docker
        head, _, name = path.rpartition(b"/")
        if self._request.layer and name.startswith(b".wh."):
            self._whiteouts.apply(head, name)
            self._source.skip(entry.size)
            return
        parent = self._whiteouts.directory(head)
        make = _MAKERS.get(entry.type)
        if make is None:
            raise UnpackError(f"{shown(entry.name)}: entries of type {shown(entry.type)} are not supported")
        if self._request.keep_kind:
            self._check_kind(parent, name, entry)
        make(self, parent, path, name, entry)
        self._whiteouts.added(path)

    @staticmethod
    def _check_kind(parent: Parent, name: bytes, entry: Entry) -> None:
        try:
            there = stat.S_ISDIR(os.stat(name, dir_fd=parent.fd, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            return
        if there and entry.type != b"5":
            raise UnpackError(f"cannot overwrite directory {shown(entry.name)} with non-directory")
        if not there and entry.type == b"5":
            raise UnpackError(f"cannot overwrite non-directory {shown(entry.name)} with directory")

    def _retry(self, parent: Parent, path: bytes, name: bytes) -> Parent:
        """Called when the path exists already: remove it, and open the parent again, because its cached descriptor may have
        been closed."""
        remove(name, parent.fd)
        self._tree.forget()
        return self._tree.directory(path.rpartition(b"/")[0])

    # --- one method for each type of entry; each must read the whole content of the entry

    def _file(self, parent: Parent, path: bytes, name: bytes, entry: Entry) -> None:
        mode = entry.mode
        try:
            fd = os.open(name, _CREATE, mode & 0o777, dir_fd=parent.fd)
        except FileExistsError:
            parent = self._retry(parent, path, name)
            fd = os.open(name, _CREATE, mode & 0o777, dir_fd=parent.fd)
        try:
            if entry.segments is None:
                self._copy(fd, entry.size)
            else:
                self._copy_sparse(fd, entry, entry.segments)
            # Set the owner first, because chown drops set-id bits and capabilities; then mode, attributes, time.
            if self._request.ownership and (entry.uid or entry.gid or not parent.plain):
                os.chown(fd, entry.uid, entry.gid)
            if mode & 0o7000:
                os.chmod(fd, mode)
            if entry.xattrs:
                self._set_xattrs(fd, entry)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)

    def _copy(self, fd: int, size: int) -> None:
        for piece in self._source.pieces(size):
            write_whole(fd, piece)
            if size > len(piece):
                self._tick()

    def _copy_sparse(self, fd: int, entry: Entry, segments: list[Segment]) -> None:
        if entry.real_size > self._request.limits.size:
            raise UnpackError(f"{shown(entry.name)}: the sparse file is larger than {self._request.limits.size} bytes")
        os.truncate(fd, entry.real_size)
        for offset, length in segments:
            os.lseek(fd, offset, os.SEEK_SET)
            self._copy(fd, length)

    def _directory(self, parent: Parent, path: bytes, name: bytes, entry: Entry) -> None:
        plain = parent.plain
        try:
            os.mkdir(name, entry.mode & 0o777, dir_fd=parent.fd)
        except FileExistsError:
            info = os.stat(name, dir_fd=parent.fd, follow_symlinks=False)
            plain = False
            if not stat.S_ISDIR(info.st_mode):
                parent = self._retry(parent, path, name)
                os.mkdir(name, entry.mode & 0o777, dir_fd=parent.fd)
                if is_whiteout(info):
                    self._whiteouts.hide_below(parent.fd, name)
        if not plain or entry.uid or entry.gid or entry.mode & 0o7000 or entry.xattrs:
            self._dress(parent, name, entry)
        self._times[path] = entry.mtime_ns

    def _dress(self, parent: Parent, name: bytes, entry: Entry) -> None:
        fd = os.open(name, _DIRECTORY, dir_fd=parent.fd)
        try:
            if self._request.ownership:
                os.chown(fd, entry.uid, entry.gid)
            os.chmod(fd, entry.mode)
            self._set_xattrs(fd, entry)
        finally:
            os.close(fd)
        self._tree.forget()

    def _symlink(self, parent: Parent, path: bytes, name: bytes, entry: Entry) -> None:
        if not entry.link or b"\0" in entry.link:
            raise UnpackError(f"{shown(entry.name)}: a symlink to {shown(entry.link)!r} cannot be made")
        try:
            os.symlink(entry.link, name, dir_fd=parent.fd)
        except FileExistsError:
            parent = self._retry(parent, path, name)
            os.symlink(entry.link, name, dir_fd=parent.fd)
        self._finish(parent, name, entry)

    def _hardlink(self, parent: Parent, path: bytes, name: bytes, entry: Entry) -> None:
        target = clean(entry.link)
        if target == path or not target:
            raise UnpackError(f"{shown(entry.name)}: a hard link to {shown(entry.link)!r} cannot be made")
        head, _, last = target.rpartition(b"/")
        try:
            try:
                source = self._tree.directory(head, create=False)
                parent = self._tree.directory(path.rpartition(b"/")[0])
                os.link(last, name, src_dir_fd=source.fd, dst_dir_fd=parent.fd, follow_symlinks=False)
            except FileExistsError:
                parent = self._retry(parent, path, name)
                source = self._tree.directory(head, create=False)
                os.link(last, name, src_dir_fd=source.fd, dst_dir_fd=parent.fd, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            raise UnpackError(
                f"{shown(entry.name)}: it is a hard link to {shown(entry.link)}, which does not exist"
            ) from None

    def _special(self, parent: Parent, path: bytes, name: bytes, entry: Entry) -> None:
        if entry.type != b"6" and not self._request.devices:
            raise UnpackError(f"{shown(entry.name)}: device nodes are not allowed")
        device = os.makedev(entry.major & 0xFFFFFFFF, entry.minor & 0xFFFFFFFF)
        kind = _SPECIAL[entry.type] | (entry.mode & 0o777)
        try:
            os.mknod(name, kind, device, dir_fd=parent.fd)
        except FileExistsError:
            parent = self._retry(parent, path, name)
            os.mknod(name, kind, device, dir_fd=parent.fd)
        self._finish(parent, name, entry)

    def _finish(self, parent: Parent, name: bytes, entry: Entry) -> None:
        if self._request.ownership and (entry.uid or entry.gid or not parent.plain):
            os.chown(name, entry.uid, entry.gid, dir_fd=parent.fd, follow_symlinks=False)
        if entry.mode & 0o7000 and entry.type != b"2":
            os.chmod(name, entry.mode, dir_fd=parent.fd)  # `chmod` follows symlinks, but this new file is not a symlink
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent.fd, follow_symlinks=False)

    def _set_xattrs(self, fd: int, entry: Entry) -> None:
        for key, value in entry.xattrs:
            if not is_accepted_xattr(key):
                continue
            try:
                os.setxattr(fd, key, value)
            except OSError as error:
                if error.errno != _UNSUPPORTED:  # on a file system without xattrs, ignore them, as Docker does
                    raise

    def _settle_times(self) -> None:
        """Set the times of directories. This is the last step, because creating a file in a directory changes the
        directory's time."""
        for path, mtime in self._times.items():
            head, _, name = path.rpartition(b"/")
            try:
                parent = self._tree.directory(head, create=False)
                if stat.S_ISDIR(os.stat(name, dir_fd=parent.fd, follow_symlinks=False).st_mode):
                    os.utime(name, ns=(mtime, mtime), dir_fd=parent.fd, follow_symlinks=False)
            except OSError as error:
                if error.errno not in _REPLACED:
                    raise


_MAKERS: dict[bytes, Callable[[_Extractor, Parent, bytes, bytes, Entry], None]] = {
    b"0": _Extractor._file,
    b"7": _Extractor._file,
    b"1": _Extractor._hardlink,
    b"2": _Extractor._symlink,
    b"3": _Extractor._special,
    b"4": _Extractor._special,
    b"5": _Extractor._directory,
    b"6": _Extractor._special,
}


def extract(source: Uncompressed, root: int, request: Unpack, tick: Callable[[], None] = lambda: None) -> int:
    """Unpack all of `source` into the directory `root`; returns the number of entries. The process's umask must be 0. Raises
    `UnpackError` for an invalid archive, and `OSError` with the entry's name for a failure of the system. `tick` is called
    often, for progress messages."""
    return _Extractor(source, root, request, tick).run()
