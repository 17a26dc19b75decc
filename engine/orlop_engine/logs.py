"""Read logs for clients: `GET /containers/{id}/logs`, and attach with `logs=1`.

The driver's reader and the framing run on worker threads, in batches of about 1 MiB. If a request is cancelled while a
thread reads (perhaps from a hung disk), the request returns immediately, and the thread closes the reader later, when its
read returns.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar
from urllib.parse import quote_plus

import msgspec
import trio

from orlop_engine.calls import DEADLINE, late
from orlop_engine.threads import Abandonable
from orlop_sdk.errors import InvalidParameter, OrlopError
from orlop_sdk.log import LogDriver, LogInfo, LogQuery, LogReader, LogRecord

__all__ = ["LogStream", "LogsRequest", "frame_records", "parse_tail", "parse_time", "read_logs"]

T = TypeVar("T")
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_FRACTION = re.compile(r"\d{1,9}", re.ASCII)
# Minimum number of bytes to read in one call on a thread, so that switching threads is a small part of the cost
_CHUNK_MIN = 1 << 18
_CHUNK_MAX = 1 << 20
_STREAMS = {"stdout": 1, "stderr": 2}
_SYSTEM_ERROR = 3
_CLOSING = 5.0  # seconds that a request waits for the end of `LogReader.close`
_READS = Abandonable("reads of logs", 40, turns=3)


class LogsRequest(msgspec.Struct, frozen=True):
    """A client's request. `multiplexed`: send frames with a header (for containers without a terminal), otherwise raw
    bytes."""

    stdout: bool = True
    stderr: bool = True
    since_ns: int = 0
    until_ns: int = 0
    tail: int | None = None
    follow: bool = False
    timestamps: bool = False
    details: bool = False
    multiplexed: bool = True


def parse_time(text: str) -> int:
    """Parse `since` or `until`, "s[.fraction]" of Unix time, to ns. "" and "0" return 0, which means no bound. The
    fraction is decimal: "1.5" is 1.5 s. Raises `InvalidParameter` with the message of Go's strconv."""
    second, _, fraction = text.partition(".")
    if not text:
        return 0
    for part, valid in ((second, _INTEGER.fullmatch(second)), (fraction, not fraction or _FRACTION.fullmatch(fraction))):
        if not valid or len(part) > 12:
            raise InvalidParameter(f'strconv.ParseInt: parsing "{part}": invalid syntax')
    return int(second) * 1_000_000_000 + int(fraction.ljust(9, "0") or 0)


def parse_tail(text: str) -> int | None:
    """Parse `tail`, a number of entries. Negative or invalid values mean all (None)."""
    count = int(text) if _INTEGER.fullmatch(text) and len(text) < 20 else -1
    return count if count >= 0 else None


# --- records to bytes -----------------------------------------------------------------------------------------------


def _fixed(time_text: str) -> bytes:
    """A timestamp with nine digits of fraction, because clients rely on the fixed width."""
    second, _, fraction = time_text[:-1].partition(".")
    return f"{second}.{fraction:0<9}Z ".encode()


def _details(attributes: Mapping[str, str] | None) -> bytes:
    pairs = sorted((attributes or {}).items())
    return (",".join(f"{quote_plus(key)}={quote_plus(value)}" for key, value in pairs) + " ").encode()


class _Stamps(dict[str, bytes]):
    """A cache of formatted timestamps, because many lines have the same timestamp."""

    def __missing__(self, key: str) -> bytes:
        stamp = self[key] = _fixed(key)
        return stamp


def _texts(records: Sequence[LogRecord], request: LogsRequest) -> list[bytes]:
    """Format as `[time ][details ]text`."""
    texts = [record.data for record in records]
    if request.details:
        texts = [_details(record.attrs) + text for record, text in zip(records, texts, strict=True)]
    if request.timestamps:
        stamps = _Stamps()
        texts = [stamps[record.time] + text for record, text in zip(records, texts, strict=True)]
    return texts


def frame_records(records: Sequence[LogRecord], request: LogsRequest) -> bytes:
    """Encode the records of the requested streams. Each record is one frame, because clients treat a frame as a line."""
    if not (request.stdout and request.stderr):
        wanted = "stdout" if request.stdout else "stderr"
        records = [record for record in records if record.stream == wanted]
    texts = _texts(records, request)
    if not request.multiplexed:
        return b"".join(texts)
    headers = _Headers()
    parts = [b""] * (2 * len(texts))
    parts[::2] = [headers[record.stream, len(text)] for record, text in zip(records, texts, strict=True)]
    parts[1::2] = texts
    return b"".join(parts)


class _Headers(dict[tuple[str, int], bytes]):
    """A cache of frame headers by stream and length. A log has few different lengths, and a lookup is cheaper than making a
    header."""

    def __missing__(self, key: tuple[str, int]) -> bytes:
        header = self[key] = bytes((_STREAMS.get(key[0], 1), 0, 0, 0)) + key[1].to_bytes(4, "big")
        return header


def _error_text(error: Exception, request: LogsRequest) -> bytes:
    text = f"Error grabbing logs: {error}\n".encode()
    return bytes((_SYSTEM_ERROR, 0, 0, 0)) + len(text).to_bytes(4, "big") + text if request.multiplexed else text


# --- the stream -----------------------------------------------------------------------------------------------------


class _Lease:
    """A log reader that may be closed while a thread reads from it. In this case that thread closes the reader after its
    read."""

    def __init__(self, make: Callable[[], LogReader], request: LogsRequest, *, follow: bool) -> None:
        self._make = make
        self._request = request
        self._follow = follow
        self.fd = -1
        self._lock = threading.Lock()
        self._reader: LogReader | None = None
        self._busy = False
        self._closed = False

    def open(self) -> None:
        """Create the reader. Raises the errors of the driver."""
        reader = self._make()
        if self._follow:
            self.fd = reader.fileno()
        with self._lock:
            if not self._closed:
                self._reader = reader
                return
        reader.close()

    @property
    def reader(self) -> LogReader:
        assert self._reader is not None
        return self._reader

    def read(self) -> tuple[bytes, bool]:
        """Read up to about `_CHUNK_MAX` bytes. Returns (data, whether more may be available without waiting)."""
        with self._lock:
            if self._closed:
                return b"", False
            self._busy = True
        try:
            parts, size, more = [], 0, True
            while more and size < _CHUNK_MIN and not self._closed:
                records = self.reader.read()
                more = bool(records)
                parts.append(frame_records(records, self._request))
                size += len(parts[-1])
            return b"".join(parts), more
        finally:
            with self._lock:
                self._busy = False
                if self._closed:
                    self._reader.close()

    def close(self) -> None:
        with self._lock:
            if not self._closed:
                self._closed = True
                if not self._busy and self._reader is not None:
                    self._reader.close()


async def _close(lease: _Lease) -> None:
    """Close a reader on a thread, because the driver's code may hang; its errors are of no interest."""
    with suppress(OrlopError), trio.move_on_after(_CLOSING, shield=True):
        await trio.to_thread.run_sync(lease.close, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1))


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


class LogStream:
    """An async iterator of body chunks. Call `open` first, to get errors as exceptions before a header is sent. Later errors
    are written into the stream. `aclose`, or the end of `async with`, closes the files."""

    def __init__(
        self,
        driver: LogDriver,
        info: LogInfo,
        options: Mapping[str, str],
        request: LogsRequest,
        ended: trio.Event | None,
    ) -> None:
        follow = request.follow and ended is not None
        query = LogQuery(since=request.since_ns, until=request.until_ns, tail=request.tail, follow=follow)
        self._driver = driver
        self._make = partial(driver.open_reader, info, options, query)
        self._request = request
        self._ended = ended if follow else None
        self._lease: _Lease | None = None
        self._chunks = self._run()

    async def open(self) -> LogStream:
        """Open the driver's reader. This method may be called twice. Raises `NotImplementedHere` when the driver's logs
        cannot be read."""
        if self._lease is None:
            lease = _Lease(self._make, self._request, follow=self._ended is not None)
            try:
                await self._on_thread(lease.open, "open the log")
            except BaseException:
                await _close(lease)
                raise
            self._lease = lease
        return self

    async def _on_thread(self, work: Callable[[], T], verb: str) -> T:
        """Run a call of the driver's reader on a thread, which is abandoned at the deadline."""
        with trio.move_on_after(DEADLINE):
            return await _READS.run(work)
        raise late(self._driver, verb, DEADLINE)

    def __aiter__(self) -> LogStream:
        return self

    async def __anext__(self) -> bytes:
        return await self._chunks.__anext__()

    async def __aenter__(self) -> LogStream:
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        if self._lease:
            await _close(self._lease)
        await self._chunks.aclose()

    async def _run(self) -> AsyncGenerator[bytes, None]:
        await self.open()
        assert self._lease is not None
        try:
            while True:
                over = self._is_over()
                data, more = await self._on_thread(self._lease.read, "read the log")
                for start in range(0, len(data), _CHUNK_MAX):
                    yield data[start : start + _CHUNK_MAX] if len(data) > _CHUNK_MAX else data
                if not more:
                    if over:  # `over` was checked before the read, so the read has returned all records up to the end
                        return
                    await self._wait(self._lease.fd)
        except (OrlopError, OSError) as error:
            yield _error_text(error, self._request)
        finally:
            await _close(self._lease)

    def _is_over(self) -> bool:
        """Whether no more data can follow. This is so without `follow`, after the container's exit, and after `until`."""
        until = self._request.until_ns
        return self._ended is None or self._ended.is_set() or bool(until and time.time_ns() > until)

    async def _wait(self, fd: int) -> None:
        """Wait until the log may have grown, the container has exited, or `until` has passed."""
        until = self._request.until_ns
        patience = max(0.0, until / 1e9 - time.time()) + 0.001 if until else float("inf")
        assert self._ended is not None
        with trio.move_on_after(patience):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_when, self._ended, nursery.cancel_scope)
                await trio.lowlevel.wait_readable(fd)
                nursery.cancel_scope.cancel()


def read_logs(
    driver: LogDriver,
    info: LogInfo,
    options: Mapping[str, str],
    request: LogsRequest,
    ended: trio.Event | None,
) -> LogStream:
    """Stream a container's log: `async with read_logs(...) as chunks: async for chunk in chunks`.

    `ended` is set when the container's log is complete. `ended` is None for a stopped container; `follow` then ends after
    the existing records. Opening (`async with`, or `await stream.open()`) raises `NotImplementedHere` and `DriverError`.
    Chunks have at most 1 MiB, and at least 256 KiB if that much is available."""
    return LogStream(driver, info, options, request, ended)
