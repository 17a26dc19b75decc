"""Runs programs for the daemon. No other module of the engine starts subprocesses.

A child is either supervised (`run_supervised` waits for it and kills it at its deadline), or it deliberately outlives the
daemon (`spawn_detached`). Both functions pass an argv list, an explicit environment, /dev/null or given bytes as standard
input, and only the listed fds. Waiting uses a pidfd, because `subprocess` with a timeout polls with growing sleeps, which
doubles the time of a fast child.
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
_DEATH = 2.0  # seconds to wait for the exit after SIGKILL; only a child in uninterruptible sleep takes longer


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
            pass  # the child does not read its whole input; its exit code shows whether that is an error


async def run_supervised(command: Command, *, pass_fds: Sequence[int] = (), limit: int = _TAIL) -> Outcome:
    """Run a command to its end and return the outcome, with the last `limit` bytes of each output. Kills the child at its
    deadline or when cancelled, and always reaps it. Outputs are read until 100 ms after the child's exit, even if a
    grandchild keeps them open."""
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
                # This also kills the child's children, which otherwise become orphans
                os.killpg(process.pid, signal.SIGKILL)
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
    """Kill the child if it is alive, and reap it. If the child does not die, a thread waits for it, so that the caller is
    not blocked."""
    if process.poll() is not None:
        return
    process.kill()
    with trio.move_on_after(_DEATH, shield=True):
        await trio.lowlevel.wait_readable(pidfd)
        process.wait()
        return
    threading.Thread(target=process.wait, name=f"reap-{process.pid}", daemon=True).start()


def describe_timeout(command: Command) -> str:
    """The message for a child that was killed at its deadline."""
    return f"{os.path.basename(command.argv[0])}: no answer within {command.timeout:g} s"


def describe(command: Command, outcome: Outcome) -> str:
    """One line for an error message: the command, its exit code or signal, and the last part of its output."""
    how = f"signal {-outcome.status}" if outcome.status < 0 else f"exit status {outcome.status}"
    what = describe_timeout(command) if outcome.timed_out else f"{os.path.basename(command.argv[0])}: {how}"
    complaint = (outcome.stderr or outcome.stdout)[-4096:].decode("utf-8", "replace").strip()
    return what + (f": {complaint}" if complaint else "")


async def check(command: Command, what: str, *, limit: int = _TAIL) -> Outcome:
    """Like `run_supervised`, but raises `DriverError("cannot WHAT: ...")` unless the command exits with 0."""
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
    """Start a program that outlives the daemon: in a session of its own, with /dev/null for standard input and output.
    The caller keeps the handle only to reap the program."""
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
