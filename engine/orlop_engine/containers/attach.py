"""Attach: a client's connection joined to the streams of a container or an exec.

The daemon only relays: frames are made by the monitor, and are Docker's. It looks at the bytes in one case: detach keys,
which only count with a terminal.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Protocol

import trio
from msgspec.structs import replace

from orlop_engine.futures import Future
from orlop_engine.processes.monitor_client import MonitorFailed
from orlop_monitor.protocol import Attach
from orlop_sdk import Conflict, InvalidParameter, OrlopError, Unavailable

from .container import AttachWaiter, Container, Joined, Run

if TYPE_CHECKING:
    from .service import Containers

__all__ = ["DetachKeys", "Detached", "attach", "check", "join", "parse_detach_keys", "relay"]

log = logging.getLogger(__name__)

DEFAULT_DETACH_KEYS = b"\x10\x11"
_CHUNK = 256 << 10
_LAST_WORDS = 1.0  # seconds for what a client said before it hung up to reach a container that is just being started


class Duplex(Protocol):
    async def receive_some(self, limit: int = 65536) -> bytes: ...
    async def send_all(self, data: bytes) -> None: ...
    async def send_eof(self) -> None: ...
    async def hung_up(self) -> None: ...


class Detached(Exception):
    """The detach sequence was typed."""


def parse_detach_keys(text: str) -> bytes:
    """`ctrl-p,ctrl-q` to bytes; "" is the default."""
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
    """Finds the sequence in a stream of typed bytes. A partly typed one is held back until it breaks. Sans-IO."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """(what to pass on, whether the sequence was completed)."""
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
    """Whether a client may attach now."""
    state = container.record.state
    if state.paused:
        raise Conflict(f"container {container.id} is paused, unpause the container before attach")
    if state.restarting:
        raise Conflict(f"container {container.id} is restarting, wait until the container is running")


async def join(container: Container, request: Attach) -> Joined | None:
    """The container's streams. Before its start: waits for the start. While it is being started the monitor is there
    already, and takes attachments. None: the start failed, or the container has just ended."""
    check(container)
    run = container.run
    if run is not None and run.monitor is not None and not run.finished.is_set():
        try:
            return Joined(await run.monitor.attach(request), run)
        except (MonitorFailed, Unavailable):
            with trio.move_on_after(_LAST_WORDS):
                await run.finished.wait()
                return None  # it was over in this very moment, and so is the attach
            raise
    waiter = AttachWaiter(request)
    container.attach_waiters.append(waiter)
    try:
        return await waiter.joined.get()
    except trio.Cancelled:
        if waiter in container.attach_waiters:
            container.attach_waiters.remove(waiter)
        elif waiter.joined.is_set():  # given in the moment in which we left
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
    """Relay until the output ends, the client goes, or `Detached` is raised. `streams` may take its time (a container that
    is yet to start): what the client sends meanwhile is kept, up to a chunk. `end_on_stdin_eof`: the end of the client's
    input ends this attach. `before_end` runs between the last output and the end that the client sees."""
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
    """What the client sends. Cancels `scope`, which is the relay, when the client is gone."""
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
                    break  # the container no longer reads; its output goes on
            if done:
                raise Detached
        if stdin:
            try:
                await inner.send_eof()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # the container has ended; its output decides when we are done
            if end_on_stdin_eof and not data:
                scope.cancel()
        await client.hung_up()
    except trio.BrokenResourceError:
        pass  # the client is gone
    scope.cancel()  # a silent container would not tell us


async def _downwards(client: Duplex, inner: trio.SocketStream, before_end: Callable[[], Awaitable[None]] | None) -> None:
    try:
        while data := await inner.receive_some(_CHUNK):
            await client.send_all(data)
        if before_end is not None:
            await before_end()
        await client.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # the client went away


async def attach(containers: Containers, container: Container, client: Duplex, request: Attach, detach_keys: bytes) -> None:
    """The whole life of one attach connection."""
    config = container.record.config
    stdin = request.stdin and config.open_stdin
    once = stdin and config.stdin_once and not config.tty
    wanted = replace(request, stdin=stdin, stdin_once=once)
    containers.engine.events.publish("container", "attach", container.id, containers.attributes(container))
    if not (stdin or request.stdout or request.stderr):
        return  # to nothing: over at once, as with dockerd
    run: Run | None = None

    async def streams() -> trio.SocketStream | None:
        nonlocal run
        joined = await join(container, wanted)
        if joined is None:
            return None
        run = joined.run
        return joined.stream

    async def ended() -> None:
        # The monitor ends these streams when it has reported the exit. Clients inspect the exit code, and remove networks,
        # as soon as they see the end.
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
        containers.engine.events.publish("container", "detach", container.id, containers.attributes(container))
    except* OrlopError as group:
        for error in group.exceptions:  # the head is gone: the client sees an end
            log.warning("attach to container %s: %s", container.name, error)
