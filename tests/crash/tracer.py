"""Counts the system calls by which a process changes something outside itself, and kills it at the entry of one of them.

A thread seizes the victim's threads (ptrace(2)) and sees every system call. SIGKILL at the entry of a call prevents the
call, so point n is the state after the first n - 1 calls. With `follow`, the tracer counts the calls of the processes that
the victim forks (the zygote forks monitors and unpack workers), but neither the victim's own calls nor those of further
descendants.

Owns no process. When the thread ends, the kernel detaches it from all seized threads.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import signal
import struct
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

__all__ = ["Tracer"]

_SEIZE, _SYSCALL, _CONT, _LISTEN, _INTERRUPT = 0x4206, 24, 7, 0x4208, 0x4207
_SETOPTIONS, _GETEVENTMSG, _GET_SYSCALL_INFO = 0x4200, 0x4201, 0x420E
_SYSGOOD, _FORK, _VFORK, _CLONE = 1, 2, 4, 8
_EVENT_FORK, _EVENT_VFORK, _EVENT_CLONE, _EVENT_STOP = 1, 2, 3, 128
_WALL, _WNOTHREAD = 0x40000000, 0x20000000
_ENTRY = 1
_STOPS = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
_O_CREAT, _O_TRUNC = os.O_CREAT, os.O_TRUNC

# System call numbers of x86-64, and of the table that newer architectures share.
_X86_64 = {
    1: "write", 18: "pwrite64", 20: "writev", 40: "sendfile", 44: "sendto", 46: "sendmsg", 49: "bind", 42: "connect",
    56: "clone", 57: "fork", 58: "vfork", 59: "execve", 73: "flock", 74: "fsync", 75: "fdatasync", 76: "truncate",
    77: "ftruncate", 82: "rename", 83: "mkdir", 84: "rmdir", 85: "creat", 86: "link", 87: "unlink", 88: "symlink",
    90: "chmod", 91: "fchmod", 92: "chown", 93: "fchown", 94: "lchown", 133: "mknod", 155: "pivot_root", 161: "chroot",
    165: "mount", 166: "umount2", 188: "setxattr", 189: "lsetxattr", 190: "fsetxattr", 197: "removexattr",
    198: "lremovexattr", 199: "fremovexattr", 2: "open", 62: "kill", 257: "openat", 258: "mkdirat", 259: "mknodat",
    260: "fchownat", 263: "unlinkat", 264: "renameat", 265: "linkat", 266: "symlinkat", 268: "fchmodat",
    272: "unshare", 280: "utimensat", 285: "fallocate", 296: "pwritev", 306: "syncfs", 307: "sendmmsg", 308: "setns",
    316: "renameat2", 326: "copy_file_range", 424: "pidfd_send_signal", 428: "open_tree", 429: "move_mount",
    430: "fsopen", 431: "fsconfig", 432: "fsmount", 435: "clone3", 437: "openat2", 442: "mount_setattr", 452: "fchmodat2",
}  # fmt: skip
_GENERIC = {
    5: "setxattr", 6: "lsetxattr", 7: "fsetxattr", 14: "removexattr", 15: "lremovexattr", 16: "fremovexattr",
    32: "flock", 33: "mknodat", 34: "mkdirat", 35: "unlinkat", 36: "symlinkat", 37: "linkat", 38: "renameat",
    39: "umount2", 40: "mount", 41: "pivot_root", 45: "truncate", 46: "ftruncate", 47: "fallocate", 51: "chroot",
    52: "fchmod", 53: "fchmodat", 54: "fchownat", 55: "fchown", 56: "openat", 64: "write", 66: "writev", 68: "pwrite64",
    70: "pwritev", 71: "sendfile", 82: "fsync", 83: "fdatasync", 88: "utimensat", 97: "unshare", 129: "kill", 200: "bind",
    203: "connect", 206: "sendto", 211: "sendmsg", 220: "clone", 221: "execve", 267: "syncfs", 268: "setns",
    269: "sendmmsg", 276: "renameat2", 285: "copy_file_range", 424: "pidfd_send_signal", 428: "open_tree",
    429: "move_mount", 430: "fsopen", 431: "fsconfig", 432: "fsmount", 435: "clone3", 437: "openat2", 442: "mount_setattr",
    452: "fchmodat2",
}  # fmt: skip
_NAMES = _X86_64 if os.uname().machine == "x86_64" else _GENERIC
_OPENS = {"open": 1, "openat": 2}  # which argument holds the flags
_BY_FD = frozenset(
    "write pwrite64 writev pwritev sendto sendmsg sendmmsg fsync fdatasync ftruncate fchmod fchown fallocate "
    "fsetxattr fremovexattr bind connect flock setns syncfs".split()
)
_AT_PATH = frozenset("openat mkdirat mknodat fchownat unlinkat linkat fchmodat utimensat openat2 fchmodat2".split())
_TWO_PATHS = frozenset({"renameat", "renameat2"})
_PATH_FIRST = frozenset(
    "open creat mkdir rmdir unlink rename link symlink symlinkat chmod chown lchown mknod truncate mount umount2 "
    "setxattr lsetxattr removexattr lremovexattr chroot execve".split()
)
_WRITES = frozenset("write pwrite64 writev pwritev".split())

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


class Gone(Exception):
    """A tracee that no longer exists, or is dying."""


def _ptrace(request: int, tid: int, address: int = 0, data: int = 0) -> int:
    result = int(_libc.ptrace(request, tid, address, data))
    if result < 0:
        number = ctypes.get_errno()
        if number == errno.ESRCH:
            raise Gone
        raise OSError(number, os.strerror(number), f"ptrace({request:#x}, {tid})")
    return result


class Tracer:
    """`with Tracer(pid, ...) as tracer:` seizes the process. `calls` are the counted calls, `killed` the call at which the
    process was killed."""

    def __init__(self, victim: int, stop_at: int = 0, *, follow: bool = False) -> None:
        self._victim, self._stop_at, self._follow = victim, stop_at, follow
        self.calls: list[str] = []
        self.killed = ""
        self.killed_pid = 0
        self.exits: dict[int, int] = {}
        """How processes ended, in the form of `Popen.returncode`: waiting for them is of no use after the tracer has."""
        self.last = time.monotonic()
        self._groups: dict[int, int] = {}  # thread -> process
        self._seized = threading.Event()
        self._done = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="tracer", daemon=True)

    def __enter__(self) -> Tracer:
        signal.signal(signal.SIGUSR2, lambda *_: None)  # the signal only interrupts waitpid with EINTR
        self._thread.start()
        self._seized.wait()
        if self._error:
            raise self._error
        return self

    def __exit__(self, *_: object) -> None:
        self._done = True
        while self._thread.is_alive():
            with suppress(ProcessLookupError):
                signal.pthread_kill(self._thread.ident or 0, signal.SIGUSR2)
            self._thread.join(0.01)
        if self._error:
            raise self._error

    def settle(self, quiet: float, limit: float = 10.0) -> None:
        """Wait until the victim was killed, or no call was counted for this long."""
        end = time.monotonic() + limit
        while not self.killed and time.monotonic() - self.last < quiet and time.monotonic() < end:
            time.sleep(0.005)

    # --- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._seize()
            self._seized.set()
            while not self._done and self._step():
                pass
        except BaseException as error:
            self._error = error
        finally:
            self._seized.set()

    def _seize(self) -> None:
        options = _SYSGOOD | (_FORK if self._follow else _CLONE)
        while True:  # a thread may be created during the listing
            new = [int(name) for name in os.listdir(f"/proc/{self._victim}/task") if int(name) not in self._groups]
            if not new:
                return
            for tid in new:
                with suppress(Gone):
                    _ptrace(_SEIZE, tid, 0, options)
                    self._groups[tid] = self._victim
                    _ptrace(_INTERRUPT, tid)

    def _step(self) -> bool:
        status = ctypes.c_int()
        tid = _libc.waitpid(-1, ctypes.byref(status), _WALL | _WNOTHREAD)
        if tid < 0:
            return ctypes.get_errno() == errno.EINTR
        if not os.WIFSTOPPED(status.value):
            self._groups.pop(tid, None)
            self.exits[tid] = os.waitstatus_to_exitcode(status.value)
            return True
        try:
            self._stopped(tid, status.value)
        except Gone:
            pass  # it is dying; the next waitpid reports it
        return True

    def _stopped(self, tid: int, status: int) -> None:
        signum, event = os.WSTOPSIG(status), status >> 16
        watched = self._watched(tid)
        if tid not in self._groups:  # the first stop of a thread may precede the event of its parent
            self._groups[tid] = _group_of(tid)
            watched = True
            if self._follow:
                _ptrace(_SETOPTIONS, tid, 0, _SYSGOOD)
        if signum == signal.SIGTRAP | 0x80:
            if watched and not self.killed and (call := self._counted(tid)):
                self._count(tid, call)
            signum = 0
        elif event == _EVENT_STOP:
            if signum in _STOPS:
                _ptrace(_LISTEN, tid)
                return
            signum = 0
        elif event:
            signum = 0
        _ptrace(_SYSCALL if watched else _CONT, tid, 0, signum)

    def _watched(self, tid: int) -> bool:
        return not (self._follow and tid == self._victim)

    def _count(self, tid: int, call: str) -> None:
        self.calls.append(call)
        self.last = time.monotonic()
        if len(self.calls) == self._stop_at:
            self.killed_pid = self._groups[tid]
            os.kill(self.killed_pid, signal.SIGKILL)
            self.killed = call

    def _counted(self, tid: int) -> str:
        """The call that the thread is about to make, as text. "" if calls of this kind are not counted."""
        info = ctypes.create_string_buffer(88)
        _ptrace(_GET_SYSCALL_INFO, tid, 88, ctypes.addressof(info))
        if info.raw[0] != _ENTRY:
            return ""
        number, *arguments = struct.unpack_from("=7Q", info.raw, 24)
        name = _NAMES.get(number)
        if name is None:
            return ""
        if name in _OPENS and not arguments[_OPENS[name]] & (_O_CREAT | _O_TRUNC):
            return ""
        if name == "openat2" and not _openat2_creates(tid, arguments[2]):
            return ""
        detail = self._detail(tid, name, arguments)
        return "" if detail is None else f"{name}({detail})"

    def _detail(self, tid: int, name: str, arguments: Sequence[int]) -> str | None:
        if name in _BY_FD:
            target = _fd(tid, arguments[0])
            if name in _WRITES and not target.startswith(("/", "socket:")):
                return None  # an eventfd or a pipe, which is invisible outside the process
            if name == "sendto" and arguments[2] == 1:
                return None  # a trio thread wakes the event loop
            return target
        if name in _AT_PATH:
            return _text(tid, arguments[1])
        if name in _TWO_PATHS:
            return f"{_text(tid, arguments[1])} -> {_text(tid, arguments[3])}"
        if name in _PATH_FIRST:
            return _text(tid, arguments[1 if name in ("mount", "symlink", "link") else 0])
        return ""


def _group_of(tid: int) -> int:
    with open(f"/proc/{tid}/status") as file:
        found = re.search(r"^Tgid:\s+(\d+)", file.read(), re.MULTILINE)
    assert found
    return int(found[1])


def _fd(tid: int, fd: int) -> str:
    try:
        return os.readlink(f"/proc/{tid}/fd/{ctypes.c_int(fd & 0xFFFFFFFF).value}")
    except OSError:
        return "?"


def _memory(tid: int, address: int, size: int) -> bytes:
    try:
        with open(f"/proc/{tid}/mem", "rb", buffering=0) as file:
            file.seek(address)
            return file.read(size)
    except (OSError, ValueError, OverflowError):
        return b""


def _text(tid: int, address: int) -> str:
    page = 4096 - address % 4096  # the page after the string's may not be mapped
    data = _memory(tid, address, page)
    if b"\0" not in data:
        data += _memory(tid, address + page, 4096)
    return data.partition(b"\0")[0].decode(errors="replace")


def _openat2_creates(tid: int, address: int) -> bool:
    flags = _memory(tid, address, 8)
    return len(flags) == 8 and bool(struct.unpack("=Q", flags)[0] & (_O_CREAT | _O_TRUNC))
