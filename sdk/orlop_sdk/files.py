"""Walking, measuring, copying and deleting directory trees whose content is controlled by containers.

All paths are relative to descriptors and no symlink is followed, so no path leads out of the tree, even if a container
changes the tree meanwhile. All functions block: call them on a worker thread. This module must not import trio, because
unpack workers use it.
"""

from __future__ import annotations

import errno
import os
import queue
import stat
import struct
import threading
import uuid
from collections.abc import Collection, Iterator
from fcntl import ioctl

from .storage import Usage

__all__ = [
    "Trash",
    "copy_content",
    "copy_directory",
    "copy_tree",
    "copy_xattrs",
    "delete_tree",
    "docker_name",
    "filesystem_type",
    "spread_directories",
    "tree_usage",
    "walk",
]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FICLONE = 0x40049409
_GET_FLAGS, _SET_FLAGS = 0x80086601, 0x40086602  # FS_IOC_GETFLAGS, FS_IOC_SETFLAGS
_TOP_DIRECTORY = 0x00020000  # FS_TOPDIR_FL
_NO_COPY = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ETXTBSY, errno.EPERM})
_NO_XATTR = frozenset({errno.EOPNOTSUPP, errno.EPERM, errno.ENODATA})
_COPY_DEPTH = 512
_STEP = 64 << 20

Entry = tuple[str, os.stat_result]


def _entries(fd: int) -> list[Entry]:
    found = []
    for name in os.listdir(fd):
        try:
            found.append((name, os.stat(name, dir_fd=fd, follow_symlinks=False)))
        except FileNotFoundError:
            pass  # another process has removed the file since it was listed
    return found


def _same(fd: int, identity: tuple[int, int]) -> bool:
    info = os.fstat(fd)
    return (info.st_dev, info.st_ino) == identity


def walk(root: int) -> Iterator[tuple[str, int, list[Entry]]]:
    """Yield (path, descriptor, entries) for the directory `root` and each directory below, parents first. The path is
    relative to the root, and "" for the root itself. The descriptor is valid until the next step. If the caller removes an
    entry from the list, the entry is not visited. Other file systems are not entered. The walk opens ".." to return to a
    parent, as fts(3) does. So only one descriptor is open, even in a deep tree. If a directory is moved meanwhile, its
    remaining entries are left out."""
    device = os.fstat(root).st_dev
    fd = os.open(".", _DIRECTORY, dir_fd=root)
    try:
        entries = _entries(fd)
        yield "", fd, entries
        info = os.fstat(fd)
        stack = [("", (info.st_dev, info.st_ino), _subdirectories(entries, device))]
        while stack:
            path, _, below = stack[-1]
            if not below:
                stack.pop()
                fd = _up(fd, root, stack)
                continue
            name = below.pop()
            try:
                inner = os.open(name, _DIRECTORY, dir_fd=fd)
            except (FileNotFoundError, NotADirectoryError):
                continue
            os.close(fd)
            fd = inner
            info = os.fstat(fd)
            entries = _entries(fd)
            path = f"{path}/{name}" if path else name
            yield path, fd, entries
            stack.append((path, (info.st_dev, info.st_ino), _subdirectories(entries, device)))
    finally:
        os.close(fd)


def _subdirectories(entries: list[Entry], device: int) -> list[str]:
    return [name for name, info in entries if stat.S_ISDIR(info.st_mode) and info.st_dev == device]


def _up(fd: int, root: int, stack: list[tuple[str, tuple[int, int], list[str]]]) -> int:
    """Return a descriptor of the parent of the directory `fd`. The caller has just popped the entry of `fd` from `stack`. If
    the directory has been moved, continue at the root, and drop the levels between it
    and the directory."""
    if not stack:
        return fd
    parent = os.open("..", _DIRECTORY, dir_fd=fd)
    os.close(fd)
    if _same(parent, stack[-1][1]):
        return parent
    os.close(parent)
    del stack[1:]
    return os.open(".", _DIRECTORY, dir_fd=root)


def spread_directories(path: str) -> None:
    """Tell ext4 that the subdirectories of `path` are unrelated (chattr +T), so that each subdirectory gets inodes in
    another part of the disk. Without the flag, ext4 looks for free inodes next to the inodes of trees that were just
    deleted. ext4 does not reuse an inode in the first minutes after its deletion (`recently_deleted` in fs/ext4/ialloc.c),
    so for each new file it would have to skip all of these inodes. Some other file systems ignore the flag, and some refuse
    it; this function then does nothing."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flags = struct.unpack("=i", ioctl(fd, _GET_FLAGS, bytes(4)))[0]
        ioctl(fd, _SET_FLAGS, struct.pack("=i", flags | _TOP_DIRECTORY))
    except OSError:
        pass
    finally:
        os.close(fd)


def tree_usage(path: str) -> Usage:
    """The size of all regular files in bytes, and the number of inodes, below `path` (`path` itself is not counted). A file
    with several hard links is counted once, as in Docker."""
    size = inodes = 0
    linked: set[int] = set()
    root = os.open(path, _DIRECTORY)
    try:
        for _, _, entries in walk(root):
            for _, info in entries:
                if info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode):
                    if info.st_ino in linked:
                        continue
                    linked.add(info.st_ino)
                inodes += 1
                if stat.S_ISREG(info.st_mode):
                    size += info.st_size
    finally:
        os.close(root)
    return Usage(size, inodes)


# --- copying


def copy_tree(source: int, target: int) -> None:
    """Copy the content of the directory `source` into `target`, and the directory's own owner, mode, times and attributes.
    Preserves hard links, holes, devices and extended attributes; shares blocks if the file system can. Sockets are left out,
    because layers contain no sockets. No other process may change `target` meanwhile. Raises `OSError`."""
    _copy_directory(source, target, {}, 0)


def copy_directory(source: str, target: str) -> None:
    """Like `copy_tree`, but with paths instead of descriptors. A symlink in the last component of a path is not followed."""
    reader = os.open(source, _DIRECTORY)
    try:
        writer = os.open(target, _DIRECTORY)
        try:
            copy_tree(reader, writer)
        finally:
            os.close(writer)
    finally:
        os.close(reader)


def _copy_directory(source: int, target: int, linked: dict[tuple[int, int], str], depth: int, path: str = "") -> None:
    if depth > _COPY_DEPTH:
        raise OSError(errno.ENAMETOOLONG, f"directories are nested deeper than {_COPY_DEPTH}", path)
    for name, info in _entries(source):
        if stat.S_ISDIR(info.st_mode):
            os.mkdir(name, 0o700, dir_fd=target)
            inner = os.open(name, _DIRECTORY, dir_fd=source)
            try:
                copy = os.open(name, _DIRECTORY, dir_fd=target)
                try:
                    _copy_directory(inner, copy, linked, depth + 1, f"{path}{name}/")
                finally:
                    os.close(copy)
            finally:
                os.close(inner)
        elif not stat.S_ISSOCK(info.st_mode):
            _copy_entry(source, target, name, info, linked, path)
    _copy_attributes(source, target, os.fstat(source))


def _copy_entry(
    source: int, target: int, name: str, info: os.stat_result, linked: dict[tuple[int, int], str], path: str
) -> None:
    if info.st_nlink > 1:
        # Link to the path of the first copy. To use a descriptor, its directory would have to stay open
        known = linked.get((info.st_dev, info.st_ino))
        if known is not None:
            try:
                up = "../" * path.count("/")
                os.link(up + known, name, src_dir_fd=target, dst_dir_fd=target, follow_symlinks=False)
                return
            except OSError as error:
                if error.errno not in (errno.ENAMETOOLONG, errno.EMLINK):
                    raise
        linked[info.st_dev, info.st_ino] = path + name
    if stat.S_ISREG(info.st_mode):
        _copy_file(source, target, name)
        return
    if stat.S_ISLNK(info.st_mode):
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
    else:
        os.mknod(name, info.st_mode, info.st_rdev, dir_fd=target)
    if (info.st_uid, info.st_gid) != (os.geteuid(), os.getegid()):
        os.chown(name, info.st_uid, info.st_gid, dir_fd=target, follow_symlinks=False)
    if not stat.S_ISLNK(info.st_mode):
        os.chmod(name, stat.S_IMODE(info.st_mode), dir_fd=target)
    os.utime(name, ns=(info.st_atime_ns, info.st_mtime_ns), dir_fd=target, follow_symlinks=False)


def _copy_file(source: int, target: int, name: str) -> None:
    reader = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=source)
    try:
        info = os.fstat(reader)
        writer = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target)
        try:
            copy_content(reader, writer, info)
            _copy_attributes(reader, writer, info)
        finally:
            os.close(writer)
    finally:
        os.close(reader)


def copy_content(reader: int, writer: int, info: os.stat_result) -> None:
    """Copy a file's content into an empty file. Holes in the source stay holes in the copy. Shares blocks if the file system
    can. `info` is the stat result of the source."""
    if not info.st_size:
        return
    try:
        ioctl(writer, _FICLONE, reader)
        return
    except OSError as error:
        if error.errno not in _NO_COPY and error.errno != errno.ENOTTY:
            raise
    os.truncate(writer, info.st_size)
    at = 0
    while at < info.st_size:
        try:
            at = os.lseek(reader, at, os.SEEK_DATA)
            end = os.lseek(reader, at, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # the rest of the file is a hole
            raise
        at = _copy_range(reader, writer, at, min(end, info.st_size))


def _copy_range(reader: int, writer: int, at: int, end: int) -> int:
    """Copy [at, end). Returns the offset at which to continue: beyond the end if the file was truncated meanwhile."""
    in_kernel = True
    while at < end:
        if in_kernel:
            try:
                done = os.copy_file_range(reader, writer, min(end - at, _STEP), at, at)
            except OSError as error:
                if error.errno not in _NO_COPY:
                    raise
                in_kernel = False
                continue
        else:
            done = os.pwrite(writer, os.pread(reader, min(end - at, 1 << 20), at), at)
        if not done:
            return 1 << 62
        at += done
    return at


def copy_xattrs(source: int, target: int, *, ignored: Collection[int] = ()) -> None:
    """Copy extended attributes, except those of overlayfs. An attribute is left out if the target's file system does not
    support it, if this process may not set it, or if the system call fails with an error number in `ignored`."""
    try:
        keys = os.listxattr(source)
    except OSError as error:
        if error.errno not in _NO_XATTR and error.errno not in ignored:
            raise
        return
    for key in keys:
        if key.startswith("trusted.overlay."):
            continue
        try:
            os.setxattr(target, key, os.getxattr(source, key))
        except OSError as error:
            if error.errno not in _NO_XATTR and error.errno not in ignored:
                raise


def _copy_attributes(source: int, target: int, info: os.stat_result) -> None:
    if (info.st_uid, info.st_gid) != (os.geteuid(), os.getegid()):
        os.chown(target, info.st_uid, info.st_gid)
    os.chmod(target, stat.S_IMODE(info.st_mode))
    copy_xattrs(source, target)
    os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns))


# --- deleting


def delete_tree(path: str) -> None:
    """Delete a file or a directory tree of any depth. Only two descriptors are open at a time, because a subdirectory that
    is not empty is moved next to `path`, and is deleted after its parent. A file that cannot be deleted (chattr +i) stays,
    and the `OSError` is raised at the end."""
    home = os.open(os.path.dirname(path), _DIRECTORY)
    failure: OSError | None = None
    try:
        waiting = [os.path.basename(path)]
        while waiting:
            name = waiting.pop()
            try:
                waiting += _delete_level(home, name)
            except FileNotFoundError:
                pass
            except OSError as error:
                failure = error
    finally:
        os.close(home)
    if failure:
        raise failure


def _delete_level(home: int, name: str) -> list[str]:
    try:
        os.unlink(name, dir_fd=home)
        return []
    except IsADirectoryError:
        pass
    moved: list[str] = []
    fd = os.open(name, _DIRECTORY, dir_fd=home)
    try:
        for child in os.listdir(fd):
            try:
                os.unlink(child, dir_fd=fd)
            except IsADirectoryError:
                try:
                    os.rmdir(child, dir_fd=fd)
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise
                    moved.append(f"{uuid.uuid4().hex}")
                    os.rename(child, moved[-1], src_dir_fd=fd, dst_dir_fd=home)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=home)
    return moved


class Trash:
    """Deletes trees in the background. `take` moves a tree into `directory`, which must be on the tree's file system. A
    thread deletes the trees there, and ends when the directory is empty. Trees that remain after a crash are deleted after
    the next start. A tree that cannot be deleted stays, and the next start tries again."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._queue: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        os.makedirs(directory, 0o700, exist_ok=True)
        for name in os.listdir(directory):
            self._delete_soon(name)

    def take(self, path: str) -> None:
        """Move `path` into the trash. If `path` does not exist, this is no error."""
        name = uuid.uuid4().hex
        try:
            os.rename(path, os.path.join(self.directory, name))
        except FileNotFoundError:
            return
        self._delete_soon(name)

    def _delete_soon(self, name: str) -> None:
        with self._lock:
            self._queue.put(name)
            if self._thread is None:
                # A daemon thread, so that the process can exit during a deletion; the next start continues the deletion.
                self._thread = threading.Thread(target=self._run, name="orlop-trash", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            with self._lock:
                if self._queue.empty():
                    self._thread = None
                    return
                name = self._queue.get()
            try:
                delete_tree(os.path.join(self.directory, name))
            except OSError:
                pass  # the tree stays, and the next start tries again

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the trash is empty, but not longer than `timeout` seconds. Returns whether the trash is empty. Used by
        tests, and when the daemon stops."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join(timeout)
            return not thread.is_alive()
        return True


def filesystem_type(path: str) -> str:
    """Docker's name of the file system of `path` ("extfs", "xfs", "btrfs", "overlayfs", ...)."""
    # Look up the mount by its id, not by st_dev: mountinfo does not list the device numbers that btrfs gives to subvolumes
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        with open(f"/proc/self/fdinfo/{fd}") as file:
            mount = next(line.split()[1] for line in file if line.startswith("mnt_id:"))
    finally:
        os.close(fd)
    with open("/proc/self/mountinfo") as file:
        found = next((fields for line in file if (fields := line.split())[0] == mount), None)
    return docker_name(found[found.index("-") + 1]) if found else "unknown"


_DOCKER_NAMES = {
    **dict.fromkeys(("ext2", "ext3", "ext4"), "extfs"),
    **dict.fromkeys(("cifs", "smb3"), "smb"),
    "fuseblk": "fuse",
    "jffs2": "jffs",
    "nfs4": "nfs",
    "overlay": "overlayfs",
}


def docker_name(filesystem: str) -> str:
    """Docker's name of the file system type `filesystem` (moby daemon/graphdriver/driver_linux.go)."""
    name = filesystem.partition(".")[0]  # the type "fuse.sshfs" means a FUSE file system
    return _DOCKER_NAMES.get(name, name)
