"""Calls between orlopd and the builder process. One socket transports the calls in both directions.

A `Link` closes the socket at its end. It also closes the file descriptors of a call, unless they have been passed to a
handler. When the connection ends, the handlers of the other side's calls are cancelled, `run` returns, and calls to the
other side fail with `Unavailable`.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import trio

from orlop_build_dockerfile.contracts import Download
from orlop_sdk import OrlopError, Unavailable, errors, linux

from .messages import FRAME_LIMIT, HEADER, RESULTS, Answer, Call, Cancel, Failed, Frame, Item, Question, decode

__all__ = ["Handler", "Link"]

log = logging.getLogger("orlop.build")

_READ = 256 << 10
_FDS = 16  # maximum number of file descriptors in one read
_UNDO = 60.0  # seconds for the other side to undo a cancelled call
_CANCELLED = "Cancelled"
_encode = msgspec.msgpack.Encoder().encode

Report = Callable[[Download], None]
Handler = Callable[[Question, list[int], Report], Awaitable[Any]]
"""Handles a call. The arguments are the question, the file descriptors of the call (which the handler must close), and a
function that reports progress."""


class _Pending:
    """A call to the other side that has no answer yet."""

    def __init__(self, report: Callable[[Download], None] | None) -> None:
        self.report = report
        self.done = trio.Event()
        self.outcome: Answer | Failed | None = None


class Link:
    """Use `run` once. `call` may be used as soon as `run` has begun, by any task of this process."""

    def __init__(self, sock: socket.socket, handler: Handler) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._handler = handler
        self._sending = trio.Lock()
        self._pending: dict[int, _Pending] = {}
        self._running: dict[int, trio.CancelScope] = {}
        self._last = 0
        self._ended = False
        self._fds: list[int] = []

    # --- calls to the other side
    # --------------------------------------------------------------------------------------------------

    async def call(
        self,
        question: Question,
        fds: Sequence[int] = (),
        report: Callable[[Download], None] | None = None,
        undo: Callable[[Any], Question] | None = None,
    ) -> Any:
        """Call the other side. The caller's file descriptors stay open. If the caller is cancelled, this method waits until
        the other side has undone the call. If the call was executed already, `undo` makes another call from the result,
        which reverses the first call. Raises the other side's `OrlopError`, and `Unavailable` if the connection ends."""
        self._last += 1
        number, pending = self._last, _Pending(report)
        self._pending[number] = pending
        try:
            await self._send(Call(number, question), fds)
            try:
                await pending.done.wait()
            except trio.Cancelled:
                with trio.move_on_after(_UNDO, shield=True):
                    await self._send(Cancel(number))
                    await pending.done.wait()
                    if undo is not None and isinstance(pending.outcome, Answer):
                        await self.call(undo(_result(question, pending.outcome)))
                raise
        finally:
            del self._pending[number]
        if isinstance(pending.outcome, Answer):
            return _result(question, pending.outcome)
        raise _lost() if pending.outcome is None else _error(pending.outcome)

    # --- the connection ---------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until the other side closes the connection or sends an invalid frame."""
        try:
            async with trio.open_nursery() as nursery:
                await self._receive(nursery)
                # Let the calls to the other side fail, because shielded handlers may be waiting for these calls
                self._lose()
                nursery.cancel_scope.cancel()
        finally:
            self._lose()
            for fd in self._fds:
                os.close(fd)
            self._fds.clear()
            if self._socket.fileno() >= 0:
                trio.lowlevel.notify_closing(self._socket)
                self._socket.close()

    def _lose(self) -> None:
        """Make all calls to the other side fail, because the connection has ended."""
        self._ended = True
        for pending in self._pending.values():
            pending.done.set()

    def close(self) -> None:
        """End the connection. `run` then returns."""
        if self._socket.fileno() >= 0:
            self._socket.shutdown(socket.SHUT_RDWR)

    async def _receive(self, nursery: trio.Nursery) -> None:
        buffer = bytearray()
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            try:
                data, fds = linux.receive_fds(self._socket, _READ, _FDS)
            except BlockingIOError:
                continue
            except OSError:
                return
            self._fds += fds
            if not data:
                return
            buffer += data
            while len(buffer) >= HEADER.size:
                length, count = HEADER.unpack_from(buffer)
                if length > FRAME_LIMIT:
                    log.error("a frame between daemon and builder is too large: %d bytes", length)
                    return
                end = HEADER.size + length
                if len(buffer) < end:
                    break
                taken, self._fds = self._fds[:count], self._fds[count:]
                try:
                    frame = decode(bytes(buffer[HEADER.size : end]))
                except msgspec.MsgspecError as error:
                    log.error("an invalid frame between daemon and builder: %s", error)
                    self._fds += taken
                    return
                del buffer[:end]
                self._dispatch(frame, taken, nursery)

    def _dispatch(self, frame: Frame, fds: list[int], nursery: trio.Nursery) -> None:
        if isinstance(frame, Call):
            scope = self._running[frame.number] = trio.CancelScope()
            nursery.start_soon(self._handle, frame, fds, scope, nursery)
            return
        for fd in fds:  # only calls have file descriptors
            os.close(fd)
        if isinstance(frame, Cancel):
            if scope_ := self._running.get(frame.number):
                scope_.cancel()
        elif pending := self._pending.get(frame.number):
            if isinstance(frame, Item):
                if pending.report:
                    pending.report(frame.download)
            else:
                pending.outcome = frame
                pending.done.set()

    async def _handle(self, call: Call, fds: list[int], scope: trio.CancelScope, nursery: trio.Nursery) -> None:
        waiting: dict[tuple[str, str], Download] = {}
        """The latest unsent progress of each kind. It is kept here, so that reporting does not wait."""

        async def send_items() -> None:
            try:
                while waiting:
                    await self._send(Item(call.number, waiting.pop(next(iter(waiting)))))
            except Unavailable:
                waiting.clear()

        def report(download: Download) -> None:
            if not waiting:
                nursery.start_soon(send_items)
            waiting[download.layer, download.what] = download

        answer: Answer | Failed = Failed(call.number, _CANCELLED, "it was cancelled")
        try:
            with scope:
                value = await self._handler(call.question, fds, report)
                answer = Answer(call.number, msgspec.Raw(_encode(value)))
        except OrlopError as error:
            answer = Failed(call.number, _kind(error), str(error))
        except Exception as error:
            single = _only_error(error)
            if single is None:
                log.exception("cannot handle %s", type(call.question).__name__)
            answer = Failed(call.number, _kind(single) if single else "", str(single or error))
        finally:
            del self._running[call.number]
        await send_items()
        try:
            await self._send(answer)
        except Unavailable:
            pass  # the connection has ended

    async def _send(self, frame: Frame, fds: Sequence[int] = ()) -> None:
        """Send a frame. It is sent completely even if the caller is cancelled, because an incomplete frame breaks the
        connection."""
        body = _encode(frame)
        data = memoryview(HEADER.pack(len(body), len(fds)) + body)
        async with self._sending:
            at = 0
            while at < len(data):
                if self._ended:
                    raise _lost()
                try:
                    if at == 0 and fds:
                        at = socket.send_fds(self._socket, [data], list(fds))
                    else:
                        at += self._socket.send(data[at:])
                except BlockingIOError:
                    with trio.move_on_after(_UNDO, shield=at > 0) as patience:
                        try:
                            await trio.lowlevel.wait_writable(self._socket)
                        except trio.ClosedResourceError:
                            raise _lost() from None
                    if patience.cancelled_caught:  # the other side does not read
                        self.close()
                except OSError:
                    raise _lost() from None


def _result(question: Question, answer: Answer) -> Any:
    wanted = RESULTS.get(type(question))
    return msgspec.msgpack.decode(answer.value, type=wanted) if wanted else None


def _lost() -> Unavailable:
    return Unavailable("the connection between the daemon and its builder has ended")


def _only_error(error: BaseException) -> OrlopError | None:
    """The `OrlopError` in a group of one exception. Nurseries make groups, even for a single exception."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error if isinstance(error, OrlopError) else None


def _kind(error: OrlopError) -> str:
    return next((each.__name__ for each in type(error).__mro__ if each.__module__ == errors.__name__), "OrlopError")


def _error(failed: Failed) -> Exception:
    if failed.kind == _CANCELLED:
        return Unavailable("the call was cancelled by the other side")
    found = getattr(errors, failed.kind, None) if failed.kind in errors.__all__ else None
    return found(failed.message) if found else OrlopError(failed.message or "the other side failed unexpectedly")
