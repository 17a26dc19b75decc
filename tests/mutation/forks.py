"""Runs functions in forked processes, several at a time, each with a limit of time."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from orlop_sdk import linux

__all__ = ["FAILED", "Fork", "run"]

_MEMORY = 4 << 30
"""Bytes of address space of a process: a mutant may allocate without end."""
FAILED = 70
"""Exit status of a process whose work raised an exception."""


@dataclass(frozen=True)
class Fork:
    """`work` returns the exit status of the process, which is killed after `seconds`."""

    work: Callable[[], int]
    seconds: float


@dataclass
class _Running:
    number: int
    deadline: float
    scratch: str


def run(forks: Sequence[Fork], jobs: int) -> Iterator[tuple[int, int]]:
    """Yields the number and the exit status of each process, in the order in which they end."""
    waiting = list(enumerate(forks))[::-1]
    running: dict[int, _Running] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            number, fork = waiting.pop()
            scratch = tempfile.mkdtemp(prefix="")
            running[_start(fork, scratch)] = _Running(number, time.monotonic() + fork.seconds, scratch)
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid in running:
            _kill_group(pid)
            ended = running.pop(pid)
            shutil.rmtree(ended.scratch, ignore_errors=True)
            yield ended.number, os.waitstatus_to_exitcode(status)
        elif not pid:
            for child, state in running.items():
                if time.monotonic() > state.deadline:
                    os.kill(child, signal.SIGKILL)
            time.sleep(0.005)


def _start(fork: Fork, scratch: str) -> int:
    child = os.fork()
    if child:
        return child
    code = FAILED
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        os.environ["TMPDIR"] = tempfile.tempdir = scratch
        if os.geteuid() == 0:  # mounts of the tests end with the process
            linux.unshare(linux.CLONE_NEWNS)
            linux.mount("tmpfs", "tmpfs", scratch)
        code = fork.work()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _kill_group(leader: int) -> None:
    """End processes that the tests left running, because a mutant may have prevented their cleanup."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
