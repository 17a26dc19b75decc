"""Passes the container's output to the log driver's writer. The writer runs in the monitor, so logs are written even if no
daemon runs.

A failing writer must not end the container: this module catches errors, and counts lost entries.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence

from orlop_sdk import discovery
from orlop_sdk.discovery import Factory
from orlop_sdk.errors import DriverError
from orlop_sdk.log import CountingLogWriter, LogBlock, LogDriver, LogInfo, LogWriter, ThrottledLogWriter, entries

from .foreign_writer import ForeignWriter, interrupted
from .lines import LineSplitter
from .protocol import LOG_OPENING, Log
from .ring import RingWriter, ringed

__all__ = ["LogSink", "open_log", "preload"]

_OPENING = LOG_OPENING
_TRIO = "trio"
_factories: dict[str, Factory] = {}
_refused: dict[str, str] = {}
"""Log drivers that may not be used, and why."""


def preload(names: Iterable[str]) -> None:
    """Import these log drivers before monitors are forked, so that no monitor needs the time and memory of the import. If a
    driver cannot be loaded, the error is reported when a container uses the driver."""
    for name in names:
        try:
            _factories[name] = _find(name)
        except BaseException as error:  # also SystemExit, which would end the zygote: no container could start
            print(f"cannot preload log driver {name}: {error}", file=sys.stderr)
            if _TRIO in sys.modules:
                _refused[name] = str(error)


def open_log(log: Log) -> LogSink:
    """Open the log for writing, and the cache that some drivers need. Raises any exception of the drivers."""
    label = f'log driver "{log.driver}"'
    with interrupted(_OPENING, f"{label} did not open the log in {_OPENING:g} s"):
        factory = _factory(log.driver)
        driver: LogDriver = factory.make()
        writer = ringed(_writer(driver, log.driver, log.info, log.options), log.options)
        if not isinstance(writer, RingWriter) and factory.distribution not in log.own:
            writer = ForeignWriter(writer, label)
        writers = [writer]
        if log.cache and not driver.capabilities.readable:
            writers.append(_writer(_factory(log.cache).make(), log.cache, log.info, log.cache_options))
        return LogSink(*writers)


def _find(name: str) -> Factory:
    """Load a driver, which must not import trio: trio would double the memory of each monitor."""
    had_trio = _TRIO in sys.modules
    factory = discovery.find("log", name)
    if _TRIO in sys.modules and not had_trio:
        raise DriverError(f'cannot use log driver "{name}": its module imports trio, and a log driver must not')
    return factory


def _factory(name: str) -> Factory:
    if name in _refused:
        raise DriverError(_refused[name])
    return _factories.get(name) or _find(name)


def _writer(driver: LogDriver, name: str, info: LogInfo, options: Mapping[str, str]) -> LogWriter:
    writer = driver.open_writer(info, options)
    for method in ("write", "close"):
        if not callable(getattr(writer, method, None)):
            kind = type(writer).__name__
            raise DriverError(f'log driver "{name}" returned {kind}, which lacks `{method}` of LogWriter')
    return writer


class LogSink:
    """Splits output into lines and passes them to the writers. Owns `writers`: the log driver's writer, then the cache's
    writer if there is a cache (see `open_log`). `lost` is the number of entries that the log driver's writer has not
    logged, and `reason` is the last exception of this writer."""

    def __init__(self, *writers: LogWriter) -> None:
        self._writers = writers
        self._throttled = [writer for writer in writers if isinstance(writer, ThrottledLogWriter)]
        self._splitters = {stream: LineSplitter(stream) for stream in ("stdout", "stderr")}
        self._counting = writers[0] if isinstance(writers[0], CountingLogWriter) else None
        self._failed = 0
        self._reason = ""

    @property
    def lost(self) -> int:
        return self._failed + (self._counting.dropped if self._counting is not None else 0)

    @property
    def reason(self) -> str:
        return self._reason or (self._counting.reason if isinstance(self._counting, RingWriter) else "")

    @property
    def full(self) -> bool:
        """Whether a writer asks the container to wait (see `ThrottledLogWriter`)."""
        return any(writer.full for writer in self._throttled)

    def write(self, stream: str, data: bytes, time_ns: int) -> None:
        self._put(self._splitters[stream].feed(data, time_ns))

    def _put(self, blocks: list[LogBlock]) -> None:
        if not blocks:
            return
        for writer in self._writers:
            try:
                writer.write(blocks)
            except BaseException as error:
                self._report(writer, error, blocks)

    def _report(self, writer: LogWriter, error: BaseException, blocks: Sequence[LogBlock]) -> None:
        reason = f"{type(error).__name__}: {error}"
        if reason != self._reason:
            print(f"log writer: {reason}", file=sys.stderr)
        if writer is self._writers[0]:
            self._failed += entries(blocks)
            self._reason = reason

    def close(self) -> None:
        for splitter in self._splitters.values():
            self._put(splitter.flush(time.time_ns()))
        for writer in self._writers:
            try:
                writer.close()
            except BaseException as error:
                print(f"log writer: close: {type(error).__name__}: {error}", file=sys.stderr)
