"""System calls that Python 3.11 does not wrap: mounts, namespaces, openat2, subreapers, inherited descriptors.

Each function wraps one system call (or two that belong together), raises `OSError` with the path, and keeps no state. The
zygote (the process from which monitors are forked) imports this module, so it must not import trio.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import struct
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager

from . import loopdevices

__all__ = [
    "CLONE_NEWNET",
    "CLONE_NEWNS",
    "attach_tree",
    "change_mount",
    "clone_tree",
    "close_other_fds",
    "detached_mount",
    "in_network_namespace",
    "is_process",
    "is_stopped",
    "keep_freed_memory",
    "mount",
    "new_network_namespace",
    "open_in_root",
    "peer_credentials",
    "pidfd_send_signal",
    "process_start_time",
    "receive_fds",
    "relative_layers",
    "release_freed_memory",
    "set_parent_death_signal",
    "set_process_name",
    "set_subreaper",
    "setns",
    "share_one_arena",
    "start_writeback",
    "umount",
    "unshare",
    "use_huge_pages",
]

CLONE_NEWNS = 0x0002_0000
CLONE_NEWNET = 0x4000_0000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_NOATIME, MS_BIND, MS_REC = 32, 1024, 4096, 16384
MS_UNBINDABLE, MS_PRIVATE, MS_SLAVE, MS_SHARED = 1 << 17, 1 << 18, 1 << 19, 1 << 20
MS_RELATIME, MS_STRICTATIME = 1 << 21, 1 << 24
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8

FLAGS = {
    "ro": MS_RDONLY,
    "nosuid": MS_NOSUID,
    "nodev": MS_NODEV,
    "noexec": MS_NOEXEC,
    "noatime": MS_NOATIME,
    "relatime": MS_RELATIME,
    "strictatime": MS_STRICTATIME,
    "bind": MS_BIND,
    "rbind": MS_BIND | MS_REC,
}
IGNORED = frozenset({"rw", "suid", "dev", "exec", "defaults"})
PROPAGATION = {
    "private": MS_PRIVATE,
    "rprivate": MS_PRIVATE | MS_REC,
    "slave": MS_SLAVE,
    "rslave": MS_SLAVE | MS_REC,
    "shared": MS_SHARED,
    "rshared": MS_SHARED | MS_REC,
    "unbindable": MS_UNBINDABLE,
    "runbindable": MS_UNBINDABLE | MS_REC,
}

_MOUNT_DATA = 4095  # mount(2) copies one page of options, including the terminating NUL

_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 1, 15, 36
_SYS_OPENAT2, _SYS_PIDFD_SEND_SIGNAL = 437, 424
_SYS_OPEN_TREE, _SYS_MOVE_MOUNT = 428, 429
_SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT = 430, 431, 432
_SYNC_FILE_RANGE_WRITE = 2
_FSOPEN_CLOEXEC = _FSMOUNT_CLOEXEC = 1
_FSCONFIG_SET_FLAG, _FSCONFIG_SET_STRING, _FSCONFIG_CMD_CREATE = 0, 1, 6
_OPEN_TREE_CLONE, _AT_RECURSIVE, _AT_FDCWD = 1, 0x8000, -100
_MOVE_MOUNT_F_EMPTY_PATH, _MOVE_MOUNT_T_SYMLINKS = 0x04, 0x10
_RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS, _RESOLVE_BENEATH, _RESOLVE_IN_ROOT = 0x02, 0x04, 0x08, 0x10
_OPENAT2_TRIES = 64  # a path with ".." makes openat2 fail with EAGAIN if any process renames a file meanwhile

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8

_PROT_NONE, _PROT_READ, _MAP_SHARED, _MAP_PRIVATE, _MAP_FIXED, _MAP_ANONYMOUS = 0, 1, 1, 2, 16, 32
_MADV_COLLAPSE = 25
_HUGE_PAGE = 2 << 20

_INT = struct.Struct("i")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_ssize_t
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def _check(result: int, path: str | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None) -> None:
    _check(
        _libc.mount(
            os.fsencode(source),
            os.fsencode(target),
            None if kind is None else os.fsencode(kind),
            ctypes.c_ulong(flags),
            None if data is None else os.fsencode(data),
        ),
        target,
    )


def mount(kind: str, source: str, target: str, options: Collection[str] = ()) -> None:
    """Mount with the options of mount(8). The flags of a bind mount (ro, nosuid, ...) and the propagation are set by a
    second mount(2), because the kernel ignores them in the first one. The option "loop" is described in `loopdevices`."""
    flags, propagation, data = 0, 0, []
    if "loop" in options:
        with loopdevices.attached(source, options) as (device, rest):
            mount(kind, device, target, rest)
        return
    for word in options:
        if word in FLAGS:
            flags |= FLAGS[word]
        elif word in PROPAGATION:
            propagation = PROPAGATION[word]
        elif word not in IGNORED:
            data.append(word)
    if kind == "bind":
        flags |= MS_BIND
    if flags & MS_BIND:
        _mount(source, target, None, flags & (MS_BIND | MS_REC), None)
        extra = flags & ~(MS_BIND | MS_REC)
        if extra:
            _mount(source, target, None, MS_REMOUNT | MS_BIND | extra, None)
    elif kind == "overlay" and len(os.fsencode(",".join(data))) > _MOUNT_DATA:
        _mount_relative(source, target, flags, data)
    elif kind or flags or data:
        _mount(source, target, kind, flags, ",".join(data))
    if propagation:
        _mount("none", target, None, propagation, None)


def change_mount(target: str, options: Iterable[str]) -> None:
    """Set the flags and the propagation of the mount whose mount point is `target`."""
    flags, propagation = 0, 0
    for word in options:
        flags |= FLAGS.get(word, 0)
        propagation |= PROPAGATION.get(word, 0)
    if flags:
        _mount("none", target, None, MS_REMOUNT | MS_BIND | flags, None)
    if propagation:
        _mount("none", target, None, propagation, None)


def relative_layers(options: Sequence[str]) -> tuple[str, list[str]]:
    """Returns the common parent of all directories in overlay options, and the same options with paths that are relative to
    this parent."""
    words = [option.partition("=") for option in options]
    layered = ("lowerdir", "upperdir", "workdir")
    base = os.path.commonpath([path for name, _, value in words if name in layered for path in value.split(":")])
    short = []
    for name, mark, value in words:
        if name in layered:
            value = ":".join(os.path.relpath(path, base) for path in value.split(":"))
        short.append(name + mark + value)
    return base, short


def _mount_relative(source: str, target: str, flags: int, options: Sequence[str]) -> None:
    """Mount an overlay that has too many layers for the page of options that mount(2) copies. As in Docker, the paths of the
    layers are relative to the working directory, which this function changes during the call. So the process must be
    single-threaded."""
    base, short = relative_layers(options)
    target = os.path.join(os.getcwd(), target)
    home = os.open(".", os.O_PATH | os.O_CLOEXEC)
    try:
        os.chdir(base)
        _mount(source, target, "overlay", flags, ",".join(short))
    finally:
        os.fchdir(home)
        os.close(home)


def clone_tree(path: str) -> int:
    """open_tree(2): a detached copy of the mounts at `path`. The descriptor can be passed to another mount namespace."""
    flags = _OPEN_TREE_CLONE | _AT_RECURSIVE | os.O_CLOEXEC
    return _check(_libc.syscall(_SYS_OPEN_TREE, _AT_FDCWD, os.fsencode(path), flags), path)


def attach_tree(fd: int, target: str) -> None:
    """move_mount(2): attach a tree made by `clone_tree`. Follows a symlink: `target` may be in /proc/self/fd."""
    flags = _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_SYMLINKS
    _check(_libc.syscall(_SYS_MOVE_MOUNT, fd, b"", _AT_FDCWD, os.fsencode(target), flags), target)


def detached_mount(kind: str, source: str, options: Collection[str] = ()) -> int:
    """Mount a file system read-only, without a mount point. Returns a descriptor of its root directory; the mount ends when
    the descriptor is closed. `options` are the same as for `mount`, but flags such as nosuid are not supported. An `OSError`
    contains `source` as its file name."""
    if "loop" in options:
        with loopdevices.attached(source, options) as (device, rest):
            return detached_mount(kind, device, rest)
    fs = _check(_libc.syscall(_SYS_FSOPEN, os.fsencode(kind), _FSOPEN_CLOEXEC), source)
    try:
        pairs = [("source", source), *(word.partition("=")[::2] for word in options if word not in IGNORED)]
        for name, value in pairs:
            what = _FSCONFIG_SET_STRING if value else _FSCONFIG_SET_FLAG
            text = os.fsencode(value) if value else None
            _check(_libc.syscall(_SYS_FSCONFIG, fs, what, os.fsencode(name), text, 0), source)
        if "ro" not in options:
            _check(_libc.syscall(_SYS_FSCONFIG, fs, _FSCONFIG_SET_FLAG, b"ro", None, 0), source)
        _check(_libc.syscall(_SYS_FSCONFIG, fs, _FSCONFIG_CMD_CREATE, None, None, 0), source)
        return _check(_libc.syscall(_SYS_FSMOUNT, fs, _FSMOUNT_CLOEXEC, MS_RDONLY), source)
    finally:
        os.close(fs)


def start_writeback(fd: int, offset: int, size: int) -> None:
    """sync_file_range(2): start writing a part of a file to disk, so that a later fsync takes less time. Errors are ignored,
    because the call only saves time."""
    _libc.sync_file_range(fd, ctypes.c_int64(offset), ctypes.c_int64(size), _SYNC_FILE_RANGE_WRITE)


def umount(target: str) -> None:
    """Detach a mount immediately (MNT_DETACH). Processes can continue to use the files that they have open on it. Symlinks
    are not followed."""
    _check(_libc.umount2(os.fsencode(target), MNT_DETACH | UMOUNT_NOFOLLOW), target)


def unshare(flags: int) -> None:
    _check(_libc.unshare(flags))


def setns(fd: int, kind: int) -> None:
    _check(_libc.setns(fd, kind))


@contextmanager
def in_network_namespace(fd: int) -> Iterator[None]:
    """Move the calling thread to another network namespace while the `with` block runs. If the thread cannot return to its
    own namespace, the process aborts, because later calls would change the wrong network."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(fd, CLONE_NEWNET)
        try:
            yield
        finally:
            try:
                setns(home, CLONE_NEWNET)
            except OSError:
                os.abort()
    finally:
        os.close(home)


def new_network_namespace() -> int:
    """Create a network namespace and return a descriptor of it. The calling thread returns to its own namespace."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        unshare(CLONE_NEWNET)
        try:
            return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            try:
                setns(home, CLONE_NEWNET)
            except OSError:
                os.abort()
    finally:
        os.close(home)


def open_in_root(root: int, path: str | bytes, flags: int, mode: int = 0) -> int:
    """openat2(RESOLVE_IN_ROOT): resolve `path` like a process whose root is the directory of the descriptor `root`. Neither
    symlinks nor ".." lead out of this directory. Retries after EAGAIN, and raises EAGAIN only if concurrent renames disturb
    every attempt."""
    return _openat2(root, path, _OpenHow(flags | os.O_CLOEXEC, mode, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS))


def open_beneath(root: int, path: str | bytes, flags: int, *, symlinks: bool = True) -> int:
    """openat2(RESOLVE_BENEATH): raises EXDEV when a symlink or ".." would lead out of the directory descriptor `root`. If
    `symlinks` is false, raises ELOOP when any component of `path` is a symlink."""
    resolve = _RESOLVE_BENEATH | (_RESOLVE_NO_MAGICLINKS if symlinks else _RESOLVE_NO_SYMLINKS)
    return _openat2(root, path, _OpenHow(flags | os.O_CLOEXEC, 0, resolve))


def _openat2(root: int, path: str | bytes, how: _OpenHow) -> int:
    name = os.fsencode(path)
    if b"\0" in name:
        raise ValueError("embedded null byte")  # as `os.open` does; the kernel would use the path before the null byte
    for left in reversed(range(_OPENAT2_TRIES)):
        fd = _libc.syscall(_SYS_OPENAT2, root, name, ctypes.byref(how), ctypes.sizeof(how))
        if fd >= 0:
            return int(fd)
        number = ctypes.get_errno()
        if number != 11 or not left:
            raise OSError(number, os.strerror(number), path)
    raise AssertionError("unreachable")


def set_subreaper() -> None:
    """Make orphaned descendants children of this process. The monitor thus becomes the parent of processes that runc
    detaches."""
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))


def set_parent_death_signal(signum: int) -> None:
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signum, 0, 0, 0))


def set_process_name(name: str) -> None:
    """Set the name that `ps -o comm` shows, at most 15 bytes."""
    _check(_libc.prctl(_PR_SET_NAME, os.fsencode(name)[:15], 0, 0, 0))


def keep_freed_memory(size: int) -> None:
    """Make malloc keep up to `size` bytes of freed memory for the next buffer, large blocks included. Otherwise malloc
    returns large blocks to the kernel, and each new buffer costs a page fault per page. Does nothing without mallopt."""
    try:
        _libc.mallopt(_M_TRIM_THRESHOLD, size)
        _libc.mallopt(_M_MMAP_THRESHOLD, size)
    except AttributeError:
        pass  # musl has no mallopt


def share_one_arena() -> None:
    """Make all threads allocate from one heap. This saves memory; the threads seldom wait for each other, because Python's
    GIL lets only one thread run at a time. Call it before starting a second thread."""
    try:
        _libc.mallopt(_M_ARENA_MAX, 1)
    except AttributeError:
        pass  # musl has no mallopt, and only one heap


def release_freed_memory() -> None:
    """Return the memory kept by `keep_freed_memory` to the kernel."""
    try:
        _libc.malloc_trim(0)
    except AttributeError:
        pass


def use_huge_pages(fd: int) -> None:
    """Move the content of a memfd into huge pages, so that fewer page faults occur when the memfd is executed. (A remainder
    that does not fill a huge page stays in small pages.) Raises `OSError` on kernels before Linux 6.1, or if memory is too
    fragmented. The memfd is then unchanged."""
    size = os.fstat(fd).st_size // _HUGE_PAGE * _HUGE_PAGE
    if not size:
        return
    # The mapping must be aligned to huge pages, which mmap guarantees only with MAP_FIXED.
    mapping = _check(_libc.mmap(None, size + _HUGE_PAGE, _PROT_NONE, _MAP_PRIVATE | _MAP_ANONYMOUS, -1, 0))
    try:
        start = -(-mapping // _HUGE_PAGE) * _HUGE_PAGE
        _check(_libc.mmap(start, size, _PROT_READ, _MAP_SHARED | _MAP_FIXED, fd, 0))
        _check(_libc.madvise(start, size, _MADV_COLLAPSE))
    finally:
        _libc.munmap(mapping, size + _HUGE_PAGE)


def pidfd_send_signal(pidfd: int, signum: int) -> None:
    signal.pidfd_send_signal(pidfd, signum)


def _process_fields(pid: int) -> list[bytes]:
    """The fields of /proc/PID/stat after the process name, which is field 2 (proc(5))."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read()
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessLookupError(pid) from None
    return stat[stat.rindex(b")") + 2 :].split()


def process_start_time(pid: int) -> int:
    """The time at which the process `pid` started, in clock ticks since the machine's boot (field 22 of /proc/PID/stat). Pid
    and start time together identify a process uniquely. Raises `ProcessLookupError` when there is no such process."""
    return int(_process_fields(pid)[19])


def is_stopped(pid: int) -> bool:
    """Whether a signal (SIGSTOP) or a debugger has stopped the process (field 3 of /proc/PID/stat)."""
    try:
        return _process_fields(pid)[0] in (b"T", b"t")
    except ProcessLookupError:
        return False


def is_process(pid: int, start_time: int) -> bool:
    """Whether `pid` is still the process that started at `start_time`. True for a zombie as well."""
    try:
        return process_start_time(pid) == start_time
    except ProcessLookupError:
        return False


def receive_fds(sock: socket.socket, size: int, most: int) -> tuple[bytes, list[int]]:
    """Receive up to `size` bytes and up to `most` descriptors, which are close-on-exec from the start. `socket.recv_fds` is
    not used: in many versions of Python it ignores its flags, so child processes would inherit the descriptors."""
    data, ancillary, _, _ = sock.recvmsg(size, socket.CMSG_LEN(most * _INT.size), socket.MSG_CMSG_CLOEXEC)
    fds = []
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds += [fd for (fd,) in _INT.iter_unpack(content[: len(content) - len(content) % _INT.size])]
    return data, fds


def close_other_fds(keep: Iterable[int]) -> None:
    """Close every descriptor above 2 that is not in `keep`."""
    low = 3
    for fd in sorted({fd for fd in keep if fd > 2}):
        os.closerange(low, fd)
        low = fd + 1
    limit = max((int(name) for name in os.listdir("/proc/self/fd")), default=2) + 1
    os.closerange(low, max(low, limit))


def peer_credentials(sock: socket.socket) -> tuple[int, int, int]:
    """The (pid, uid, gid) that the process at the other end of a unix socket had when it called connect()."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int.from_bytes(raw[:4], "little", signed=True), *(int.from_bytes(raw[i : i + 4], "little") for i in (4, 8))  # type: ignore[return-value]
