"""Progress records of pull, load and import (format: Docker's JSON message stream), streamed to one client.

Producers never wait. Records are sent at most every 100 ms (as in Docker). Between two sends, a newer byte count of a layer
replaces the older count, and all other records are kept. So a slow client delays no operation and costs little memory.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import trio

from orlop_sdk import OrlopError

__all__ = ["Progress", "Record", "Report", "error_record"]

_INTERVAL = 0.1
_log = logging.getLogger("orlop.images")


class Detail(msgspec.Struct, frozen=True, omit_defaults=True):
    current: int = 0
    total: int = 0


class Failure(msgspec.Struct, frozen=True):
    message: str


class Record(msgspec.Struct, frozen=True, omit_defaults=True, rename={"detail": "progressDetail", "failure": "errorDetail"}):
    """One record, in Docker's order of fields. In a record of a layer's progress, `detail` contains the byte counts. In a
    record of a layer's state, it is an empty object. In other records, it is absent."""

    stream: str | None = None
    status: str | None = None
    detail: Detail | None = None
    id: str = ""
    failure: Failure | None = None
    error: str | None = None
    aux: Any = None


Report = Callable[[Record], None]
_ENCODER = msgspec.json.Encoder()
_NO_DETAIL = Detail()


def message(text: str, id: str = "") -> Record:
    return Record(status=text, id=id)


def state(id: str, text: str) -> Record:
    """A record of a layer's state."""
    return Record(status=text, detail=_NO_DETAIL, id=id)


def amount(id: str, text: str, current: int, total: int) -> Record:
    """A record of a layer's progress, in bytes."""
    return Record(status=text, detail=Detail(current, total), id=id)


def error_record(text: str) -> Record:
    return Record(failure=Failure(text), error=text)


def encode(record: Record) -> bytes:
    return _ENCODER.encode(record) + b"\r\n"


class Progress:
    """The records of one operation. Iterate over this object once; it yields encoded records. Stopping before the end
    cancels the operation.

    `run` is the operation. The operation's error becomes the last record, unless the method `started` has raised this error.
    """

    def __init__(self, nursery: trio.Nursery, run: Callable[[Report], Awaitable[None]]) -> None:
        self._kept: deque[Record] = deque()
        self._latest: dict[str, Record] = {}
        self._sent_latest = -_INTERVAL
        self._wake = trio.Event()
        self._scope = trio.CancelScope()
        self._error: Exception | None = None
        self._done = False
        self._any = False
        nursery.start_soon(self._operate, run)

    async def _operate(self, run: Callable[[Report], Awaitable[None]]) -> None:
        try:
            with self._scope:
                await run(self.report)
        except (OrlopError, OSError) as error:
            self._error = error
        except Exception as error:
            # The cause is an incomplete request body, or a bug. Only this operation fails
            _log.exception("an image operation failed")
            self._error = error
        finally:
            self._done = True
            self._wake.set()

    def report(self, record: Record) -> None:
        self._any = True
        if record.detail is not None and record.detail.total:
            self._latest[record.id] = record
        else:
            self._latest.pop(record.id, None)
            self._kept.append(record)
        self._wake.set()

    async def ready(self) -> None:
        """Wait for the first record, or for the end of the operation."""
        try:
            while not self._any and not self._done:
                await self._wait()
        except BaseException:
            self._scope.cancel()
            raise

    async def started(self) -> None:
        """Like `ready`, but raises the error of an operation that failed before its first record. The request can then be
        answered with an HTTP error."""
        await self.ready()
        if self._error is not None and not self._any:
            raise self._error

    async def finished(self) -> None:
        """Wait for the end of the operation, and raise its error, even if records were reported."""
        try:
            while not self._done:
                await self._wait()
        except BaseException:
            self._scope.cancel()
            raise
        if self._error is not None:
            raise self._error

    async def _wait(self) -> None:
        await self._wake.wait()
        self._wake = trio.Event()
        if self._done:
            self._wake.set()

    def _take(self) -> list[Record]:
        batch = list(self._kept)
        self._kept.clear()
        if self._latest and trio.current_time() >= self._sent_latest + _INTERVAL:
            batch += self._latest.values()
            self._latest.clear()
            self._sent_latest = trio.current_time()
        return batch

    def __aiter__(self) -> Progress:
        return self

    async def __anext__(self) -> bytes:
        try:
            while True:
                if batch := self._take():
                    return b"".join(map(encode, batch))
                if self._done:
                    return self._last()
                deadline = self._sent_latest + _INTERVAL if self._latest else trio.current_time() + 3600
                with trio.move_on_at(deadline):
                    await self._wait()
        except trio.Cancelled:
            self._scope.cancel()
            raise

    def _last(self) -> bytes:
        if self._error is None:
            raise StopAsyncIteration
        error, self._error = self._error, None
        # Omit "[Errno 28]", because for a full disk Docker shows only the system's message, in lower case
        text = error.strerror.lower() if isinstance(error, OSError) and error.strerror else str(error)
        return encode(error_record(text))

    async def aclose(self) -> None:
        """Cancel the operation, because the client has disconnected."""
        self._scope.cancel()
        await trio.lowlevel.checkpoint()
