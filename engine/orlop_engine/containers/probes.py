"""Health checks: probe a container periodically, in one task for each run. Probes are execs, and appear as execs in
events."""

from __future__ import annotations

import time

import trio
from msgspec import UNSET

from orlop_engine.types.containers import ExecConfig
from orlop_kernel.failures import as_orlop_error

from .container import Container, Run
from .exec_state import ExecState
from .health import UNHEALTHY, Health, Result, command
from .ports import Ports
from .services import Execs

__all__ = ["suspend", "watch"]

_OUTPUT = 4096
_BEGIN = 30.0  # seconds within which a probe must start
_DRAIN = 5.0  # seconds to wait until the output of a killed probe is closed


async def watch(ports: Ports, container: Container, run: Run) -> None:
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
                    _take(ports, container, health, await _probe(ports.execs, container, probe, health.timeout))
    if container.health is health:
        _change(container, health, UNHEALTHY)


def suspend(container: Container) -> None:
    """Mark a paused container as unhealthy: it is not probed, so its health is unknown."""
    if container.health is not None:
        _change(container, container.health, UNHEALTHY)


async def _cancel_at_end(run: Run, scope: trio.CancelScope) -> None:
    await run.finished.wait()
    scope.cancel()


def _take(ports: Ports, container: Container, health: Health, result: Result) -> None:
    before = health.status
    health.judge(result)
    ports.counters.checked(result.code == 0)
    after, health.status = health.status, before
    container.touch()
    if _change(container, health, after):
        ports.events.publish(container, f"health_status: {after}")


def _change(container: Container, health: Health, status: str) -> bool:
    """Set the status. Returns whether it has changed."""
    if health.status == status:
        return False
    health.status = status
    container.touch()
    return True


async def _probe(execs: Execs, container: Container, argv: list[str], timeout_ns: int) -> Result:
    """Run the check once. If the check cannot be run, it counts as failed, and the error message is its output."""
    start_ns = time.time_ns()
    output = _Output()
    try:
        exec_id = execs.create(container, ExecConfig(cmd=argv, attach_stdout=True, attach_stderr=True))
        with trio.fail_after(_BEGIN):
            state, stream = await execs.start(exec_id, detach=False, console_size=None)
        assert stream is not None
        try:
            code = await _finish(execs, state, stream, output, timeout_ns / 1e9)
        finally:
            await trio.aclose_forcefully(stream)
            execs.forget(exec_id)
    except trio.TooSlowError:
        return Result(start_ns, time.time_ns(), -1, f"Health check did not begin within {_BEGIN:g} s")
    except Exception as error:
        # All exceptions are caught, because an image may contain values that cause unexpected errors, such as a NUL byte.
        # Such an error must end only this probe, not the task that runs the probes.
        return Result(start_ns, time.time_ns(), -1, str(as_orlop_error(error, "cannot run the health check")))
    text = output.text()
    if code is None:
        text = f"Health check exceeded timeout ({_duration(timeout_ns)}){': ' + text if text else ''}"
    return Result(start_ns, time.time_ns(), -1 if code is None else code, text)


async def _finish(execs: Execs, state: ExecState, stream: trio.SocketStream, output: _Output, seconds: float) -> int | None:
    """The probe's exit code; None when it timed out and was killed."""
    with trio.move_on_after(seconds):
        await output.read(stream)
        return await state.ended.get()
    await execs.kill(state)
    with trio.move_on_after(_DRAIN):
        await output.read(stream)
        await state.ended.get()
    return None


class _Output:
    """The first bytes of a probe's output: both streams interleaved, without stream frames."""

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
            pass  # the monitor ended, which ends the output

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
            space = _OUTPUT - len(self._kept)
            self._kept += piece[:space]
            self._cut = self._cut or len(piece) > space

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
