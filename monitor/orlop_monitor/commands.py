"""Runs a runtime's commands from the monitor, without blocking.

The module uses posix_spawn. It takes 0.5 ms however much memory the monitor uses, because the child shares the parent's
memory until it execs. The child inherits only the three standard descriptors; all others are close-on-exec. Ignored signals
and the monitor's raised limit of descriptors are reset in the child, because the container's init would inherit them.
"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from orlop_sdk.common import Command

from . import sealed
from .loop import Loop

__all__ = ["IGNORED_SIGNALS", "raise_file_limit", "run"]

IGNORED_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE, signal.SIGXFSZ)
"""Signals that must not end a monitor. They are sent by systemd when a unit stops, by a terminal, and by the kernel on a
write to a pipe without a reader or beyond a file size limit."""

_FILES = 1 << 16  # descriptors; a relayed connection needs two, and 32,768 connections take about 100 MB of memory
_inherited: tuple[int, int] | None = None


def raise_file_limit() -> None:
    """Raise this process's soft limit of descriptors. The container's processes start with the original limit."""
    global _inherited
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _FILES:
        _inherited = soft, hard
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(_FILES, hard), hard))


@contextmanager
def _inherited_limits() -> Iterator[None]:
    """Restore the original limit of descriptors during the `with` block. Open descriptors above the limit stay open."""
    if _inherited is None:
        yield
        return
    raised = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, _inherited)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, raised)


def _input_file(data: bytes) -> int:
    fd = os.memfd_create("input", os.MFD_CLOEXEC)
    os.write(fd, data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def run(loop: Loop, command: Command, stdio: tuple[int, int, int], on_end: Callable[[int, bool], None]) -> int:
    """Start a command with these standard descriptors and return its pid. `on_end(status, timed_out)` is called once; the
    status is the exit code, or the negated signal. A command that does not end before its deadline is killed with its
    children. SIGCHLD reports the end of the command. EOF on its outputs is not used, because a detached container keeps the
    outputs open. Raises `OSError` when the program cannot be executed."""
    stdin = _input_file(command.stdin) if command.stdin else stdio[0]
    # The child starts in this process's working directory. Threads of log drivers do not depend on this directory: they use
    # absolute paths
    os.chdir(command.cwd)
    try:
        program = sealed.executable(command.argv[0])
        with _inherited_limits():
            pid = os.posix_spawnp(
                program,
                command.argv,
                dict(command.env),
                file_actions=[(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate((stdin, *stdio[1:]))],
                setsigmask=(),
                setsigdef=IGNORED_SIGNALS,
                setpgroup=0,
            )
    finally:
        os.chdir("/")
        if stdin != stdio[0]:
            os.close(stdin)
    expired = False

    def expire() -> None:
        nonlocal expired
        expired = True
        os.killpg(pid, signal.SIGKILL)

    deadline = loop.call_later(command.timeout, expire)

    def ended(status: int) -> None:
        deadline.cancel()
        on_end(status, expired)
        loop.release_unclaimed()  # only now, because `on_end` calls `on_child` for the container's process

    loop.hold_unclaimed()
    loop.on_child(pid, ended)
    return pid
