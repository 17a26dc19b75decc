"""System calls that Python 3.11 does not wrap: mounts, namespaces, openat2, subreapers, fd hygiene.

Thin by intent: each function is one system call (or the two that belong together), raises `OSError` with the path, and
holds no state. Imported by the zygote: nothing here may import trio.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

__all__ = [
    "CLONE_NEWNET",
    "CLONE_NEWNS",
    "attach_tree",
    "change_mount",
    "clone_tree",
    "close_other_fds",
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

_MOUNT_DATA = 4095  # mount(2) copies one page of options, with its end

_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 1, 15, 36
_SYS_OPENAT2, _SYS_PIDFD_SEND_SIGNAL = 437, 424
_SYS_OPEN_TREE, _SYS_MOVE_MOUNT = 428, 429
_OPEN_TREE_CLONE, _AT_RECURSIVE, _AT_FDCWD = 1, 0x8000, -100
_MOVE_MOUNT_F_EMPTY_PATH, _MOVE_MOUNT_T_SYMLINKS = 0x04, 0x10
_RESOLVE_NO_MAGICLINKS, _RESOLVE_BENEATH, _RESOLVE_IN_ROOT = 0x02, 0x08, 0x10
_OPENAT2_TRIES = 64  # a rename anywhere on the machine makes a path with ".." fail with EAGAIN; a busy one never succeeds

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


def mount(kind: str, source: str, target: str, options: Iterable[str] = ()) -> None:
    """Mount with mount(8)'s words. A read-only or nosuid bind, and a propagation word, take a second call, as the kernel
    ignores them in the first."""
    flags, propagation, data = 0, 0, []
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
    """Set the flags and the propagation of the mount that `target` is the top of."""
    flags, propagation = 0, 0
    for word in options:
        flags |= FLAGS.get(word, 0)
        propagation |= PROPAGATION.get(word, 0)
    if flags:
        _mount("none", target, None, MS_REMOUNT | MS_BIND | flags, None)
    if propagation:
        _mount("none", target, None, propagation, None)


def relative_layers(options: Sequence[str]) -> tuple[str, list[str]]:
    """The directory that all directories in overlay options have in common, and the options relative to it."""
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
    """An overlay of so many layers that its options do not fit in the page that mount(2) copies: name them relative to the
    working directory, as Docker does. Changes that for the whole process for a moment: for single-threaded ones."""
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
    """open_tree(2): a copy of the mounts at `path`, attached nowhere; its fd may go to another mount namespace."""
    flags = _OPEN_TREE_CLONE | _AT_RECURSIVE | os.O_CLOEXEC
    return _check(_libc.syscall(_SYS_OPEN_TREE, _AT_FDCWD, os.fsencode(path), flags), path)


def attach_tree(fd: int, target: str) -> None:
    """move_mount(2): mount what `clone_tree` made. A symlink is followed: `target` may be in /proc/self/fd."""
    flags = _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_SYMLINKS
    _check(_libc.syscall(_SYS_MOVE_MOUNT, fd, b"", _AT_FDCWD, os.fsencode(target), flags), target)


def umount(target: str) -> None:
    """Detach a mount at once; what still uses it keeps it until it is done. Never follows a symlink."""
    _check(_libc.umount2(os.fsencode(target), MNT_DETACH | UMOUNT_NOFOLLOW), target)


def unshare(flags: int) -> None:
    _check(_libc.unshare(flags))


def setns(fd: int, kind: int) -> None:
    _check(_libc.setns(fd, kind))


@contextmanager
def in_network_namespace(fd: int) -> Iterator[None]:
    """Run the block with this *thread* in another network namespace. A thread that cannot come back must not go on: the
    process ends rather than act on the wrong network."""
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
    """Make a network namespace and return an fd of it; the calling thread stays where it is."""
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
    """openat2(RESOLVE_IN_ROOT): `path` means what it means to a process chrooted at the directory fd `root`; symlinks,
    absolute ones and ".." never lead out of it. Raises EAGAIN only after many tries under constant renaming."""
    return _openat2(root, path, _OpenHow(flags | os.O_CLOEXEC, mode, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS))


def open_beneath(root: int, path: str | bytes, flags: int) -> int:
    """openat2(RESOLVE_BENEATH): EXDEV when a symlink or ".." would lead out of the directory fd `root`."""
    return _openat2(root, path, _OpenHow(flags | os.O_CLOEXEC, 0, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS))


def _openat2(root: int, path: str | bytes, how: _OpenHow) -> int:
    name = os.fsencode(path)
    for left in reversed(range(_OPENAT2_TRIES)):
        fd = _libc.syscall(_SYS_OPENAT2, root, name, ctypes.byref(how), ctypes.sizeof(how))
        if fd >= 0:
            return int(fd)
        number = ctypes.get_errno()
        if number != 11 or not left:
            raise OSError(number, os.strerror(number), path)
    raise AssertionError("unreachable")


def set_subreaper() -> None:
    """Orphaned descendants become our children: runc's detached container processes become the monitor's."""
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))


def set_parent_death_signal(signum: int) -> None:
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signum, 0, 0, 0))


def set_process_name(name: str) -> None:
    """The name `ps -o comm` shows: 15 bytes at most."""
    _check(_libc.prctl(_PR_SET_NAME, os.fsencode(name)[:15], 0, 0, 0))


def keep_freed_memory(size: int) -> None:
    """Have malloc keep up to `size` bytes of freed memory, blocks of that size included, instead of giving them back to the
    kernel at once and faulting them in again, page by page, for the next buffer. Where there is no mallopt: nothing."""
    try:
        _libc.mallopt(_M_TRIM_THRESHOLD, size)
        _libc.mallopt(_M_MMAP_THRESHOLD, size)
    except AttributeError:
        pass  # musl has no such knobs, and no such habit


def share_one_arena() -> None:
    """Have all threads allocate from one heap, for a process whose threads work in turn (they do, under one lock). To be
    called before there is a second thread."""
    try:
        _libc.mallopt(_M_ARENA_MAX, 1)
    except AttributeError:
        pass  # musl has one heap anyway


def release_freed_memory() -> None:
    """Give back what `keep_freed_memory` kept."""
    try:
        _libc.malloc_trim(0)
    except AttributeError:
        pass


def use_huge_pages(fd: int) -> None:
    """Gather what a memfd holds into huge pages, as far as it fills them: who executes it takes fewer page faults. Before
    Linux 6.1, or where memory is too scattered: `OSError`, and it stays as it is."""
    size = os.fstat(fd).st_size // _HUGE_PAGE * _HUGE_PAGE
    if not size:
        return
    # Page and address must be aligned alike, which mmap does only when it is told the address.
    room = _check(_libc.mmap(None, size + _HUGE_PAGE, _PROT_NONE, _MAP_PRIVATE | _MAP_ANONYMOUS, -1, 0))
    try:
        start = -(-room // _HUGE_PAGE) * _HUGE_PAGE
        _check(_libc.mmap(start, size, _PROT_READ, _MAP_SHARED | _MAP_FIXED, fd, 0))
        _check(_libc.madvise(start, size, _MADV_COLLAPSE))
    finally:
        _libc.munmap(room, size + _HUGE_PAGE)


def pidfd_send_signal(pidfd: int, signum: int) -> None:
    signal.pidfd_send_signal(pidfd, signum)


def _process_fields(pid: int) -> list[bytes]:
    """proc(5) stat from field 3 on, which follow the name."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read()
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessLookupError(pid) from None
    return stat[stat.rindex(b")") + 2 :].split()


def process_start_time(pid: int) -> int:
    """Clock ticks since boot when `pid` started: with the pid it names one process for ever (field 22 of proc(5) stat).
    Raises `ProcessLookupError` when there is none."""
    return int(_process_fields(pid)[19])


def is_stopped(pid: int) -> bool:
    """Whether a signal (SIGSTOP) or a debugger has stopped it (field 3 of proc(5) stat)."""
    try:
        return _process_fields(pid)[0] in (b"T", b"t")
    except ProcessLookupError:
        return False


def is_process(pid: int, start_time: int) -> bool:
    """Whether `pid` is still the process that started then, be it a zombie by now."""
    try:
        return process_start_time(pid) == start_time
    except ProcessLookupError:
        return False


def receive_fds(sock: socket.socket, size: int, most: int) -> tuple[bytes, list[int]]:
    """Up to `size` bytes, and up to `most` descriptors that come with them, close-on-exec from the start. Not by
    `socket.recv_fds`: in many versions of Python it drops its flags, and what it returns is inherited by every program."""
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
    """(pid, uid, gid) of the process at the other end of a unix socket, as of its connect()."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int.from_bytes(raw[:4], "little", signed=True), *(int.from_bytes(raw[i : i + 4], "little") for i in (4, 8))  # type: ignore[return-value]
