"""Health checks: a probe in the container from time to time, and what its results mean.

In memory only: after a restart of the daemon a check begins anew with `starting`, as Docker's does. One task a run; probes
are execs, seen in events as such. `Health` is the judge and pure; `watch` lives with the run.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import trio
from msgspec import UNSET

from orlop_engine.types.containers import ContainerConfig, ExecConfig, Healthcheck
from orlop_kernel.failures import as_orlop_error
from orlop_sdk.base import rfc3339

from .container import Container, Run

if TYPE_CHECKING:
    from orlop_engine.execs import ExecState

    from .service import Containers

__all__ = ["HEALTHY", "STARTING", "UNHEALTHY", "Health", "Result", "command", "suspend", "watch"]

STARTING, HEALTHY, UNHEALTHY = "starting", "healthy", "unhealthy"
_INTERVAL, _TIMEOUT, _START_INTERVAL = 30_000_000_000, 30_000_000_000, 5_000_000_000
SHORTEST = 1_000_000
"""Nanoseconds; Docker's least."""
_LONGEST = (1 << 63) - 1
_RETRIES = 3
_KEPT = 5
_OUTPUT = 4096
_BEGIN = 30.0  # seconds that a probe may take to begin
_DRAIN = 5.0  # and what it left open to close, when it was killed


class Result(NamedTuple):
    start_ns: int
    end_ns: int
    code: int
    output: str

    def view(self) -> dict[str, Any]:
        return {
            "Start": rfc3339(self.start_ns),
            "End": rfc3339(self.end_ns),
            "ExitCode": self.code,
            "Output": self.output,
        }


class Health:
    """What is known of a container's health. `judge` takes a probe's result."""

    def __init__(self, check: Healthcheck) -> None:
        self.status = STARTING
        self.streak = 0
        self.results: deque[Result] = deque(maxlen=_KEPT)
        self._check = check
        self._began_ns = time.time_ns()

    @property
    def timeout(self) -> int:
        return _duration_or(self._check.timeout, _TIMEOUT)

    def pause(self, now_ns: int) -> int:
        """Nanoseconds until the next probe."""
        if self._is_young(now_ns):
            return _duration_or(self._check.start_interval, _START_INTERVAL)
        return _duration_or(self._check.interval, _INTERVAL)

    def _is_young(self, now_ns: int) -> bool:
        return self.status == STARTING and max(0, now_ns - self._began_ns) < self._check.start_period

    def judge(self, result: Result) -> None:
        """Failures of a container that is starting do not count, until its first success or its start period is over."""
        self.results.append(result)
        if result.code == 0:
            self.streak, self.status = 0, HEALTHY
            return
        if self._is_young(result.start_ns):
            return
        self.streak += 1
        if self.streak >= (self._check.retries if self._check.retries > 0 else _RETRIES):
            self.status = UNHEALTHY

    def view(self) -> dict[str, Any]:
        return {"Status": self.status, "FailingStreak": self.streak, "Log": [result.view() for result in self.results]}


def _duration_or(ns: int, default: int) -> int:
    """What create refuses may come with an image: no sleep takes it, or the machine would do nothing but probe."""
    return min(ns, _LONGEST) if ns >= SHORTEST else default


def command(config: ContainerConfig) -> list[str] | None:
    """What to run in the container; None when there is no check."""
    check = config.healthcheck
    test: Sequence[str] = (check.test or ()) if check is not UNSET else ()
    if not test or test[0] == "NONE":
        return None
    if test[0] == "CMD-SHELL":
        shell = config.shell if config.shell is not UNSET and config.shell else ["/bin/sh", "-c"]
        return [*shell, *test[1:2]]
    return list(test[1:]) if test[0] == "CMD" else list(test)


async def watch(containers: Containers, container: Container, run: Run) -> None:
    """Probe for as long as the run lasts."""
    config = container.record.config
    probe = command(config)
    if probe is None or config.healthcheck is UNSET or not probe:
        container.health = None
        return
    container.health = health = Health(config.healthcheck)
    container.touch()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_at_end, run, scope)
            while True:
                await trio.sleep(health.pause(time.time_ns()) / 1e9)
                if not container.record.state.paused:
                    _take(containers, container, health, await _probe(containers, container, probe, health.timeout))
    if container.health is health:
        _change(containers, container, health, UNHEALTHY, tell=False)


def suspend(containers: Containers, container: Container) -> None:
    """A paused container is not probed: nobody knows that it is well."""
    if container.health is not None:
        _change(containers, container, container.health, UNHEALTHY, tell=False)


async def _cancel_at_end(run: Run, scope: trio.CancelScope) -> None:
    await run.finished.wait()
    scope.cancel()


def _take(containers: Containers, container: Container, health: Health, result: Result) -> None:
    before = health.status
    health.judge(result)
    containers.engine.counters.checked(result.code == 0)
    after, health.status = health.status, before
    container.touch()
    _change(containers, container, health, after, tell=True)


def _change(containers: Containers, container: Container, health: Health, status: str, *, tell: bool) -> None:
    if health.status == status:
        return
    health.status = status
    container.touch()
    if tell:
        containers.engine.events.publish(
            "container", f"health_status: {status}", container.id, containers.attributes(container)
        )


async def _probe(containers: Containers, container: Container, argv: list[str], timeout_ns: int) -> Result:
    """One run of the check. Whatever keeps it from running is a failure with the reason for output."""
    execs, start_ns = containers.engine.execs, time.time_ns()
    output = _Output()
    try:
        exec_id = execs.create(container, ExecConfig(cmd=argv, attach_stdout=True, attach_stderr=True))
        with trio.fail_after(_BEGIN):
            state, stream = await execs.start(exec_id, detach=False, console_size=None)
        assert stream is not None
        try:
            code = await _finish(containers, state, stream, output, timeout_ns / 1e9)
        finally:
            await trio.aclose_forcefully(stream)
            execs.forget(exec_id)
    except trio.TooSlowError:
        return Result(start_ns, time.time_ns(), -1, f"Health check did not begin within {_BEGIN:g} s")
    except Exception as error:
        # Also a mistake of ours about what an image says (a NUL, a size): this probe's end, never the watcher's.
        return Result(start_ns, time.time_ns(), -1, str(as_orlop_error(error, "cannot run the health check")))
    text = output.text()
    if code is None:
        text = f"Health check exceeded timeout ({_duration(timeout_ns)}){': ' + text if text else ''}"
    return Result(start_ns, time.time_ns(), -1 if code is None else code, text)


async def _finish(
    containers: Containers, state: ExecState, stream: trio.SocketStream, output: _Output, seconds: float
) -> int | None:
    """Its exit code; None when it took too long, and was killed."""
    with trio.move_on_after(seconds):
        await output.read(stream)
        return await state.ended.get()
    await containers.engine.execs.kill(state)
    with trio.move_on_after(_DRAIN):
        await output.read(stream)
        await state.ended.get()
    return None


class _Output:
    """The beginning of a probe's output: both streams as they come, without the frames they come in."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._cut = False
        self._head = bytearray()
        self._left = 0

    async def read(self, stream: trio.SocketStream) -> None:
        """To its end."""
        try:
            while data := await stream.receive_some():
                self._feed(data)
        except trio.BrokenResourceError:
            pass  # its monitor ended

    def _feed(self, data: bytes | bytearray) -> None:
        at = 0
        while at < len(data):
            if not self._left:
                take = min(8 - len(self._head), len(data) - at)
                self._head += data[at : at + take]
                at += take
                if len(self._head) == 8:
                    self._left = int.from_bytes(self._head[4:], "big")
                    self._head.clear()
                continue
            piece = data[at : at + self._left]
            at += len(piece)
            self._left -= len(piece)
            containers = _OUTPUT - len(self._kept)
            self._kept += piece[:containers]
            self._cut = self._cut or len(piece) > containers

    def text(self) -> str:
        return self._kept.decode("utf-8", "replace") + ("..." if self._cut else "")


def _duration(ns: int) -> str:
    """As Go prints it: 30s, 1m0s, 1.5s, 500ms."""
    if ns < 1_000_000_000:
        return f"{ns / 1e6:g}ms"
    minutes, seconds = divmod(ns, 60_000_000_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{seconds / 1e9:g}s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    return f"{hours}h{text}" if hours else text
