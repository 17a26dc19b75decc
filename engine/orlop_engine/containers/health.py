"""Health checks: probe a container periodically, and derive its health from the results.

State is in memory only: after a restart of the daemon a check begins again with `starting`, as with Docker. Each run has
one task; probes are execs, and appear as such in events. `Health` evaluates results and is pure; `watch` runs as long as
the run.
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
"""Nanoseconds; Docker's minimum."""
_LONGEST = (1 << 63) - 1
_RETRIES = 3
_KEPT = 5
_OUTPUT = 4096
_BEGIN = 30.0  # seconds for a probe to start
_DRAIN = 5.0  # seconds for the output of a killed probe to close


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
    """The health of a container. `judge` records the result of a probe."""

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
        """Record a result. Failures during the start period do not count until the first success."""
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
    """The configured duration, or the default. An image may contain values that create refuses: one too large for sleep,
    or so short that the host would do nothing but probe."""
    return min(ns, _LONGEST) if ns >= SHORTEST else default


def command(config: ContainerConfig) -> list[str] | None:
    """The command of the check; None when there is no check."""
    check = config.healthcheck
    test: Sequence[str] = (check.test or ()) if check is not UNSET else ()
    if not test or test[0] == "NONE":
        return None
    if test[0] == "CMD-SHELL":
        shell = config.shell if config.shell is not UNSET and config.shell else ["/bin/sh", "-c"]
        return [*shell, *test[1:2]]
    return list(test[1:]) if test[0] == "CMD" else list(test)


async def watch(containers: Containers, container: Container, run: Run) -> None:
    """Probe the container until the run ends."""
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
    """Mark a paused container unhealthy: it is not probed, so its health is unknown."""
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
    """Run the check once. Any error that prevents the run counts as a failure, with the error as its output."""
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
        # Also our own bugs with an image's values (a NUL, a size): they must end this probe only, not the watcher.
        return Result(start_ns, time.time_ns(), -1, str(as_orlop_error(error, "cannot run the health check")))
    text = output.text()
    if code is None:
        text = f"Health check exceeded timeout ({_duration(timeout_ns)}){': ' + text if text else ''}"
    return Result(start_ns, time.time_ns(), -1 if code is None else code, text)


async def _finish(
    containers: Containers, state: ExecState, stream: trio.SocketStream, output: _Output, seconds: float
) -> int | None:
    """The probe's exit code; None when it timed out and was killed."""
    with trio.move_on_after(seconds):
        await output.read(stream)
        return await state.ended.get()
    await containers.engine.execs.kill(state)
    with trio.move_on_after(_DRAIN):
        await output.read(stream)
        await state.ended.get()
    return None


class _Output:
    """The beginning of a probe's output: both streams interleaved, without stream frames."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._cut = False
        self._head = bytearray()
        self._left = 0

    async def read(self, stream: trio.SocketStream) -> None:
        """Read until the stream ends."""
        try:
            while data := await stream.receive_some():
                self._feed(data)
        except trio.BrokenResourceError:
            pass  # the monitor ended

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
    """Format nanoseconds as Go does: 30s, 1m0s, 1.5s, 500ms."""
    if ns < 1_000_000_000:
        return f"{ns / 1e6:g}ms"
    minutes, seconds = divmod(ns, 60_000_000_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{seconds / 1e9:g}s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    return f"{hours}h{text}" if hours else text
