"""Running programs from the daemon: the one gateway for subprocesses.

A child is supervised (`run_supervised`: we wait for it, it dies with its deadline), or it deliberately outlives us
(`spawn_detached`). Both: an argv list, an explicit environment, /dev/null or given bytes on standard input, only listed
fds inherited. Waits by pidfd: `subprocess` with a timeout polls with doubling sleeps and doubles the time of a fast child.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence

import trio

from orlop_sdk import Command, DeadlineExceeded, DriverError, Outcome

__all__ = ["check", "describe", "describe_timeout", "run_supervised", "spawn_detached"]

_TAIL = 64 << 10
_DEATH = 2.0  # seconds from SIGKILL to the end; more only for who sits in the kernel on a disk that hangs


async def _collect(fd: int, into: bytearray, limit: int) -> None:
    async with trio.lowlevel.FdStream(fd) as stream:
        async for chunk in stream:
            into += chunk
            if len(into) > 2 * limit:
                del into[:-limit]


async def _feed(fd: int, data: bytes) -> None:
    async with trio.lowlevel.FdStream(fd) as stream:
        try:
            await stream.send_all(data)
        except trio.BrokenResourceError:
            pass  # the child does not want it all; its exit code says whether that matters


async def run_supervised(command: Command, *, pass_fds: Sequence[int] = (), limit: int = _TAIL) -> Outcome:
    """Run to the end and return how it ended; the last `limit` bytes of each output are kept. Kills it at its deadline or
    when cancelled, and always reaps it. A grandchild that keeps the outputs open does not keep us: they are read until
    100 ms after the child's end."""
    process = subprocess.Popen(  # noqa: ASYNC220 - vfork and exec, under a millisecond
        command.argv,
        env=dict(command.env),
        cwd=command.cwd,
        stdin=subprocess.PIPE if command.stdin else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=pass_fds,
        start_new_session=True,
    )
    assert process.stdout and process.stderr
    out, err = bytearray(), bytearray()
    timed_out = True
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError:
        process.kill()
        process.communicate()
        raise
    try:
        async with trio.open_nursery() as readers:
            readers.start_soon(_collect, os.dup(process.stdout.fileno()), out, limit)
            readers.start_soon(_collect, os.dup(process.stderr.fileno()), err, limit)
            if process.stdin:
                readers.start_soon(_feed, os.dup(process.stdin.fileno()), command.stdin)
                process.stdin.close()
            with trio.move_on_after(command.timeout):
                await trio.lowlevel.wait_readable(pidfd)
                timed_out = False
            if timed_out:
                os.killpg(process.pid, signal.SIGKILL)  # its children too, which it would leave to nobody
            readers.cancel_scope.deadline = trio.current_time() + 0.1
    finally:
        await _reap(process, pidfd)
        os.close(pidfd)
        for file in (process.stdin, process.stdout, process.stderr):
            if file:
                file.close()
    status = -signal.SIGKILL if process.returncode is None else process.returncode
    return Outcome(status, bytes(out[-limit:]), bytes(err[-limit:]), timed_out)


async def _reap(process: subprocess.Popen[bytes], pidfd: int) -> None:
    """Kill it if it lives, and take its status. One that does not die is left to a thread: waiting here would be everybody's
    waiting."""
    if process.poll() is not None:
        return
    process.kill()
    with trio.move_on_after(_DEATH, shield=True):
        await trio.lowlevel.wait_readable(pidfd)
        process.wait()
        return
    threading.Thread(target=process.wait, name=f"reap-{process.pid}", daemon=True).start()


def describe_timeout(command: Command) -> str:
    """What to say of one that was killed at its deadline."""
    return f"{os.path.basename(command.argv[0])}: no answer within {command.timeout:g} s"


def describe(command: Command, outcome: Outcome) -> str:
    """One line for an error: what was run, how it ended, the end of what it complained."""
    how = f"signal {-outcome.status}" if outcome.status < 0 else f"exit status {outcome.status}"
    what = describe_timeout(command) if outcome.timed_out else f"{os.path.basename(command.argv[0])}: {how}"
    complaint = (outcome.stderr or outcome.stdout)[-4096:].decode("utf-8", "replace").strip()
    return what + (f": {complaint}" if complaint else "")


async def check(command: Command, what: str, *, limit: int = _TAIL) -> Outcome:
    """`run_supervised`, raising `DriverError("cannot WHAT: ...")` unless it exits with 0."""
    try:
        outcome = await run_supervised(command, limit=limit)
    except OSError as error:
        raise DriverError(f"cannot {what}: cannot run {command.argv[0]}: {error.strerror}") from error
    if outcome.timed_out:
        raise DeadlineExceeded(f"cannot {what}: {describe(command, outcome)}")
    if outcome.status:
        raise DriverError(f"cannot {what}: {describe(command, outcome)}")
    return outcome


def spawn_detached(
    argv: Sequence[str], *, env: Mapping[str, str], pass_fds: Sequence[int] = (), stderr: int | None = None
) -> subprocess.Popen[bytes]:
    """Start a program that is meant to outlive us: a session of its own, /dev/null for standard input and output. The
    caller keeps the handle only to reap it."""
    return subprocess.Popen(
        list(argv),
        env=dict(env),
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL if stderr is None else stderr,
        pass_fds=pass_fds,
        start_new_session=True,
    )
