"""Passes the container's output to the log driver's writer. The writer runs in the monitor, so logs are written even if no
daemon runs.

A failing writer must not end the container: this module catches errors, and counts lost entries.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from orlop_sdk import discovery
from orlop_sdk.discovery import Factory
from orlop_sdk.errors import DriverError
from orlop_sdk.log import LogBlock, LogDriver, LogInfo, LogWriter, ThrottledLogWriter

from .lines import LineSplitter
from .protocol import Log
from .ring import ringed

__all__ = ["LogSink", "open_log", "preload"]

_OPENING = 5.0  # seconds; the daemon waits longer than this for a monitor
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
        except BaseException as error:  # also SystemExit: without the zygote, no container could start
            print(f"cannot preload log driver {name}: {error}", file=sys.stderr)
            if _TRIO in sys.modules:
                _refused[name] = str(error)


def open_log(log: Log) -> LogSink:
    """Open the log for writing, and the cache that some drivers need. Raises any exception of the drivers."""
    with _deadline(log.driver):
        driver = _driver(log.driver)
        writers = [ringed(_writer(driver, log.driver, log.info, log.options), log.options)]
        if log.cache and not driver.capabilities.readable:
            writers.append(_writer(_driver(log.cache), log.cache, log.info, log.cache_options))
        return LogSink(*writers)


@contextmanager
def _deadline(name: str) -> Iterator[None]:
    """Interrupt a hanging driver by a signal, because the daemon waits for this process to answer."""

    def interrupt(*_: object) -> None:
        raise DriverError(f'log driver "{name}" did not open the log in {_OPENING:g} s')

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, _OPENING)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _find(name: str) -> Factory:
    """Load a driver, which must not import trio: trio would double the memory of each monitor."""
    had_trio = _TRIO in sys.modules
    factory = discovery.find("log", name)
    if _TRIO in sys.modules and not had_trio:
        raise DriverError(f'cannot use log driver "{name}": its module imports trio, and a log driver must not')
    return factory


def _driver(name: str) -> LogDriver:
    if name in _refused:
        raise DriverError(_refused[name])
    driver: LogDriver = (_factories.get(name) or _find(name)).make()
    return driver


def _writer(driver: LogDriver, name: str, info: LogInfo, options: Mapping[str, str]) -> LogWriter:
    writer = driver.open_writer(info, options)
    for method in ("write", "close"):
        if not callable(getattr(writer, method, None)):
            kind = type(writer).__name__
            raise DriverError(f'log driver "{name}" returned {kind}, which lacks `{method}` of LogWriter')
    return writer


class LogSink:
    """Splits output into lines and passes them to the writers. Owns `writers`: the log driver's writer, then the cache's
    writer if there is a cache (see `open_log`). `dropped` counts the blocks of lines that the log driver's writer has
    refused."""

    def __init__(self, *writers: LogWriter) -> None:
        self._writers = writers
        self._throttled = [writer for writer in writers if isinstance(writer, ThrottledLogWriter)]
        self._splitters = {stream: LineSplitter(stream) for stream in ("stdout", "stderr")}
        self.dropped = 0

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
                if not self.dropped:
                    print(f"log writer: {type(error).__name__}: {error}", file=sys.stderr)
                self.dropped += len(blocks) if writer is self._writers[0] else 0

    def close(self) -> None:
        for splitter in self._splitters.values():
            self._put(splitter.flush(time.time_ns()))
        for writer in self._writers:
            try:
                writer.close()
            except BaseException as error:
                print(f"log writer: close: {type(error).__name__}: {error}", file=sys.stderr)
