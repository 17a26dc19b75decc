"""Runs the program that turns a tar stream into a layer (`orlop_sdk.LayerStream`), in a separate sandbox.

The program is a child of the worker, and the kernel kills it when the worker dies. The program's root is a tmpfs with
read-only binds of the host's programs and libraries. The program can write only to the layer's directory. It has no
capabilities and no sockets. Its system call filter is the worker's filter, except that execve is allowed.
"""

from __future__ import annotations

import errno
import os
import resource
import select
import signal
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

from orlop_sdk.linux import (
    attach_tree,
    change_mount,
    clone_tree,
    close_other_fds,
    mount,
    set_parent_death_signal,
    start_writeback,
)

from . import sandbox

__all__ = ["Program"]

_ROOT = "/run"  # where the sandbox's root is mounted until it becomes "/"
_LAYER = "layer"
_SYSTEM = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "nix")  # host directories with programs and libraries
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR": ".", "LC_ALL": "C"}
_MEMORY = 2 << 30  # bytes of address space; mkfs.erofs takes 450 bytes for each file
_CPU = 900  # seconds
_STALLED = 120.0  # seconds; a program that reads nothing for this time has failed
_ENDING = 900.0  # seconds that the program may run after the end of the stream
_PIPE = 1 << 20
_WRITEBACK = 8 << 20
_FILE = 4 << 40  # bytes; mkfs.erofs keeps data that is not compressed yet at an offset of 1 TiB in the sparse image
_FULL = 1 << 20  # bytes; with less free space, the disk is treated as full
_SHOWN = 2000


class Program:
    """`directory` is a descriptor of the layer's directory. `keep` is the name of a file in this directory to which a copy
    of the tar is written, "" for none. Implements `normalize.Output`. Create the object before the worker starts threads and
    drops its privileges."""

    def __init__(self, argv: Sequence[str], directory: int, keep: str) -> None:
        self._pending = bytearray()
        self._kept = -1
        self._started = 0  # bytes of the copy for which writeback to disk was started
        if keep:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            self._kept = os.open(keep, flags, 0o600, dir_fd=directory)
        reading, self._pipe = os.pipe2(os.O_CLOEXEC)
        self._errors, errors = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        worker = os.getpid()
        self._pid = os.fork()
        if not self._pid:
            _exec(argv, directory, (reading, errors), worker)
        os.close(reading)
        os.close(errors)
        self._pidfd = os.pidfd_open(self._pid)
        self._name = os.path.basename(argv[0])
        os.set_blocking(self._pipe, False)

    # --- Output

    def write(self, data: bytes | memoryview) -> None:
        self._pending += data
        if len(self._pending) >= _PIPE:
            self.flush()

    def zeros(self, size: int) -> None:
        """Write zeros, which become a hole in the copy."""
        self.flush()
        if self._kept >= 0:
            os.ftruncate(self._kept, os.lseek(self._kept, size, os.SEEK_CUR))
        block = memoryview(bytes(min(size, _PIPE)))
        while size:
            self._feed(block[:size])
            size -= min(size, len(block))

    def flush(self) -> None:
        with memoryview(self._pending) as view:
            if self._kept >= 0:
                self._keep(view)
            self._feed(view)
        self._pending.clear()

    def _keep(self, data: memoryview) -> None:
        at = 0
        while at < len(data):
            at += os.write(self._kept, data[at:])
        end = os.lseek(self._kept, 0, os.SEEK_CUR)
        if end - self._started >= _WRITEBACK:
            start_writeback(self._kept, self._started, end - self._started)
            self._started = end

    def _feed(self, data: memoryview) -> None:
        at = 0
        while at < len(data):
            try:
                at += os.write(self._pipe, data[at:])
            except BlockingIOError:
                if not select.select([], [self._pipe], [], _STALLED)[1]:
                    raise OSError(errno.ETIMEDOUT, f"{self._name} has read nothing for {_STALLED:g} s") from None
            except BrokenPipeError:
                self._fail()

    # --- end

    def finish(self, tick: Callable[[], None]) -> None:
        """Write the remaining data, and wait for the program. Raises `OSError` when the program fails. `tick` is called
        often."""
        self.flush()
        os.close(self._pipe)
        if self._kept >= 0:
            os.close(self._kept)
        deadline = time.monotonic() + _ENDING
        while not self._ends_in(0.1):
            tick()
            if time.monotonic() > deadline:
                raise OSError(errno.ETIMEDOUT, f"{self._name} did not end in {_ENDING:g} s")
        if os.waitstatus_to_exitcode(status := os.waitpid(self._pid, 0)[1]):
            self._fail(status)

    def _ends_in(self, seconds: float) -> bool:
        return bool(select.select([self._pidfd], [], [], seconds)[0])

    def _fail(self, status: int | None = None) -> NoReturn:
        """Raise the error of a program that has failed or no longer reads. If the program still runs, the kernel kills it
        when this process ends."""
        ended = "stopped reading"
        if status is None and self._ends_in(1.0):
            status = os.waitpid(self._pid, 0)[1]
        if status is not None:
            code = os.waitstatus_to_exitcode(status)
            ended = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended early with exit code {code}"
        try:
            text = os.read(self._errors, 65536)[-_SHOWN:].decode("utf-8", "backslashreplace").strip()
        except BlockingIOError:
            text = ""
        # Not every program reports that the disk is full: mkfs.erofs reports only a wrong checksum, because data is missing
        free = os.statvfs("/")  # the worker's root is the layer's directory
        if free.f_bavail * free.f_frsize < _FULL or os.strerror(errno.ENOSPC) in text:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise OSError(errno.EIO, f"{self._name} {ended}" + (f": {text}" if text else ""))


def _exec(argv: Sequence[str], directory: int, streams: tuple[int, int], worker: int) -> NoReturn:
    """In the child: build the sandbox and become the program."""
    try:
        reading, errors = streams
        os.dup2(reading, 0)
        os.dup2(errors, 1)
        os.dup2(errors, 2)
        os.fchdir(directory)
        close_other_fds([])
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        if os.geteuid() == 0:
            _build_root()
        os.umask(0o077)
        sandbox.confine(file_size=_FILE, makes_files=False, memory=_MEMORY, allowed={"execve"})
        resource.setrlimit(resource.RLIMIT_CPU, (_CPU, _CPU))
        set_parent_death_signal(signal.SIGKILL)
        if os.getppid() == worker:
            os.execve(argv[0], list(argv), _ENVIRONMENT)  # noqa: S606 - never a shell
    except BaseException as error:
        os.write(2, f"cannot run it: {error}".encode())
    finally:
        os._exit(126)


def _build_root() -> None:
    """Make a tmpfs the root: the working directory becomes /layer, programs and libraries are read-only."""
    sandbox.own_mounts()
    layer = clone_tree(".")
    mount("tmpfs", "tmpfs", _ROOT, ("mode=0755", "size=64k"))
    os.mkdir(f"{_ROOT}/{_LAYER}")
    attach_tree(layer, f"{_ROOT}/{_LAYER}")
    os.close(layer)
    for name in _SYSTEM:
        if os.path.islink(f"/{name}"):
            os.symlink(os.readlink(f"/{name}"), f"{_ROOT}/{name}")
        elif os.path.isdir(f"/{name}"):
            os.mkdir(f"{_ROOT}/{name}")
            mount("bind", f"/{name}", f"{_ROOT}/{name}", ("bind", "ro", "nosuid", "nodev"))
    sandbox.pivot(_ROOT)
    os.chdir(f"/{_LAYER}")
    change_mount(".", ("nosuid", "nodev", "noexec"))
    change_mount("/", ("ro", "nosuid", "nodev", "noexec"))
