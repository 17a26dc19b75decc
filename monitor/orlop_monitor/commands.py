"""Running a runtime's commands from the monitor: spawned, not waited for.

posix_spawn, because its child shares our memory until it execs: 0.5 ms however large we are. Nothing is inherited but the
three standard descriptors, everything else is close-on-exec; signals we ignore are reset, or the container's init would be
born ignoring them; and so is our limit of descriptors, which is our own.
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
"""What a monitor lives through: a unit's stop, the end of a terminal it never had, a reader that is gone."""

_FILES = 1 << 16  # two a connection that is relayed; so many cost a monitor some 100 MB, more should not be had of it
_inherited: tuple[int, int] | None = None


def raise_file_limit() -> None:
    """Have more descriptors than programs are started with, which a container's processes get to see."""
    global _inherited
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _FILES:
        _inherited = soft, hard
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(_FILES, hard), hard))


@contextmanager
def _inherited_limits() -> Iterator[None]:
    """What is open beyond the limit meanwhile stays open."""
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
    """Start it with these standard descriptors and return its pid. `on_end(status, timed_out)` once: exit code, or minus the
    signal. It is killed at its deadline, with its children. Waits by the child's end, never by the end of its outputs: a
    detached container keeps them open. Raises `OSError` when there is nothing to execute."""
    stdin = _input_file(command.stdin) if command.stdin else stdio[0]
    os.chdir(command.cwd)  # posix_spawn has no way to say it; our other thread knows full paths
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
        loop.release_unclaimed()  # after it: that is where the child is claimed

    loop.hold_unclaimed()
    loop.on_child(pid, ended)
    return pid
