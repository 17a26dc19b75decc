"""Attach: relay bytes between a client's connection and the streams of a container or an exec.

The monitor writes the output in Docker's stream frames; the daemon relays the frames unchanged. The daemon inspects only the
client's input, and only if the container has a terminal, to find the detach keys.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Protocol

import trio
from msgspec.structs import replace

from orlop_engine.futures import Future
from orlop_engine.processes.monitor_client import MonitorFailed
from orlop_monitor.protocol import Attach
from orlop_sdk import Conflict, InvalidParameter, OrlopError, Unavailable

from .container import AttachWaiter, Container, Joined, Run
from .events import ContainerEvents

__all__ = ["DetachKeys", "Detached", "attach", "check", "join", "parse_detach_keys", "relay"]

log = logging.getLogger("orlop.containers")

DEFAULT_DETACH_KEYS = b"\x10\x11"
_CHUNK = 256 << 10
_LAST_WORDS = 1.0  # seconds to deliver the input of a client that disconnected while the container was being started


class Duplex(Protocol):
    async def receive_some(self, limit: int = 65536) -> bytes: ...
    async def send_all(self, data: bytes) -> None: ...
    async def send_eof(self) -> None: ...
    async def hung_up(self) -> None: ...


class Detached(Exception):
    """The client typed the detach sequence."""


def parse_detach_keys(text: str) -> bytes:
    """Parse a sequence like `ctrl-p,ctrl-q`; "" is the default sequence."""
    if not text:
        return DEFAULT_DETACH_KEYS
    out = bytearray()
    for word in text.split(","):
        if len(word) == 1 and word.isascii():
            out += word.encode()
        elif word == "DEL":
            out.append(127)
        elif word.startswith("ctrl-") and len(word) == 6 and (word[5].islower() or word[5] in "@[\\]^_"):
            out.append(ord(word[5].upper()) - 64)
        else:
            raise InvalidParameter(f"Invalid detach keys ({text}) provided")
    return bytes(out)


class DetachKeys:
    """Finds the detach sequence in a stream of typed bytes (Docker's default is ctrl-p,ctrl-q). The bytes of a partial match
    are held back until the match fails. This class does no I/O."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """Returns (bytes to pass on, whether the sequence was completed)."""
        out = bytearray()
        for byte in data:
            if byte == self._keys[self._held]:
                self._held += 1
                if self._held == len(self._keys):
                    self._held = 0
                    return bytes(out), True
                continue
            if self._held:
                out += self._keys[: self._held]
                self._held = 0
                if byte == self._keys[0]:
                    self._held = 1
                    continue
            out.append(byte)
        return bytes(out), False


def check(container: Container) -> None:
    """Raise `Conflict` if clients cannot attach to the container in its current state."""
    state = container.record.state
    if state.paused:
        raise Conflict(f"container {container.id} is paused, unpause the container before attach")
    if state.restarting:
        raise Conflict(f"container {container.id} is restarting, wait until the container is running")


async def join(container: Container, request: Attach) -> Joined | None:
    """Attach to the container's streams. A monitor accepts attachments even while the container is being started. If there
    is no monitor yet, wait for the start. Returns None if the start failed, or if the container has just exited."""
    check(container)
    run = container.run
    if run is not None and run.monitor is not None and not run.finished.is_set():
        try:
            return Joined(await run.monitor.attach(request), run)
        except (MonitorFailed, Unavailable):
            with trio.move_on_after(_LAST_WORDS):
                await run.finished.wait()
                return None  # the container exited at this moment, so the attach ends normally
            raise
    waiter = AttachWaiter(request)
    container.attach_waiters.append(waiter)
    try:
        return await waiter.joined.get()
    except trio.Cancelled:
        if waiter in container.attach_waiters:
            container.attach_waiters.remove(waiter)
        elif waiter.joined.is_set():  # another task delivered the stream while this task was being cancelled
            with suppress(OrlopError):
                if joined := waiter.joined.result():
                    joined.stream.socket.close()
        raise


async def relay(
    client: Duplex,
    streams: Callable[[], Awaitable[trio.SocketStream | None]],
    *,
    stdin: bool,
    detach_keys: bytes | None,
    end_on_stdin_eof: bool,
    before_end: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Relay until the output ends, the client disconnects, or `Detached` is raised. The callback `streams` may wait until
    the container starts. Meanwhile one chunk of the client's input is buffered. `end_on_stdin_eof`: EOF on the client's
    input ends the attach. `before_end` is called after the last output was sent, and before the connection is closed."""
    keys = DetachKeys(detach_keys) if detach_keys else None
    inner: trio.SocketStream | None = None
    opened: Future[trio.SocketStream] = Future()
    try:
        async with trio.open_nursery() as nursery:
            upwards = partial(_upwards, client, opened, keys, stdin=stdin, end_on_stdin_eof=end_on_stdin_eof)
            nursery.start_soon(upwards, nursery.cancel_scope)
            async with trio.open_nursery() as waiting:
                waiting.start_soon(_hung_up_before_start, client, nursery.cancel_scope)
                inner = await streams()
                waiting.cancel_scope.cancel()
            if inner is not None:
                opened.set(inner)
                await _downwards(client, inner, before_end)
            nursery.cancel_scope.cancel()
    finally:
        if inner is not None:
            await trio.aclose_forcefully(inner)


async def _hung_up_before_start(client: Duplex, scope: trio.CancelScope) -> None:
    await client.hung_up()
    await trio.sleep(_LAST_WORDS)
    scope.cancel()


async def _upwards(
    client: Duplex,
    opened: Future[trio.SocketStream],
    keys: DetachKeys | None,
    scope: trio.CancelScope,
    *,
    stdin: bool,
    end_on_stdin_eof: bool,
) -> None:
    """Relay the client's input. Cancels `scope` (the relay) when the client disconnects."""
    try:
        while True:
            data = await client.receive_some(_CHUNK)
            inner = await opened.get()
            if not data:
                break
            done = False
            if keys is not None:
                data, done = keys.feed(data)
            if data and stdin:
                try:
                    await inner.send_all(data)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    break  # the container has closed its input, but its output continues
            if done:
                raise Detached
        if stdin:
            try:
                await inner.send_eof()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # the container has exited; the relay ends at the end of its output
            if end_on_stdin_eof and not data:
                scope.cancel()
        await client.hung_up()
    except trio.BrokenResourceError:
        pass  # the client is gone
    scope.cancel()  # if the container has no output, the output task never detects the disconnect


async def _downwards(client: Duplex, inner: trio.SocketStream, before_end: Callable[[], Awaitable[None]] | None) -> None:
    try:
        while data := await inner.receive_some(_CHUNK):
            await client.send_all(data)
        if before_end is not None:
            await before_end()
        await client.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # the client went away


async def attach(events: ContainerEvents, container: Container, client: Duplex, request: Attach, detach_keys: bytes) -> None:
    """Serve one attach connection until the connection ends."""
    config = container.record.config
    stdin = request.stdin and config.open_stdin
    once = stdin and config.stdin_once and not config.tty
    wanted = replace(request, stdin=stdin, stdin_once=once)
    events.publish(container, "attach")
    if not (stdin or request.stdout or request.stderr):
        return  # the client asked for no stream, so the attach ends immediately, as with dockerd
    run: Run | None = None

    async def streams() -> trio.SocketStream | None:
        nonlocal run
        joined = await join(container, wanted)
        if joined is None:
            return None
        run = joined.run
        return joined.stream

    async def ended() -> None:
        # The monitor ends these streams after it has reported the exit. Clients inspect the exit code and remove networks as
        # soon as the streams end, so the exit must be recorded before the streams end.
        assert run is not None
        await run.finished.wait()

    try:
        await relay(
            client,
            streams,
            stdin=stdin,
            detach_keys=detach_keys if config.tty and stdin else None,
            end_on_stdin_eof=stdin and not once,
            before_end=ended,
        )
    except* Detached:
        events.publish(container, "detach")
    except* OrlopError as group:
        # The response has begun, so no error can be sent; the client only sees that the connection ends
        for error in group.exceptions:
            log.warning("attach to container %s failed: %s", container.name, error)
