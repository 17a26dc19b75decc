"""Passes the container's output to the log driver's writer. The writer runs in the monitor, so logs are written even if no
daemon runs.

A failing writer must not end the container: this module catches errors, and counts lost entries.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable

from orlop_sdk import discovery
from orlop_sdk.discovery import Factory
from orlop_sdk.log import LogBlock, LogDriver, LogWriter, ThrottledLogWriter

from .lines import LineSplitter
from .protocol import Log
from .ring import ringed

__all__ = ["LogSink", "open_log", "preload"]

_factories: dict[str, Factory] = {}


def preload(names: Iterable[str]) -> None:
    """Import these log drivers before monitors are forked, so that no monitor needs the time and memory of the import. If a
    driver cannot be loaded, the error is reported when a container uses the driver."""
    for name in names:
        try:
            _factories[name] = discovery.find("log", name)
        except Exception as error:
            print(f"cannot preload log driver {name}: {error}", file=sys.stderr)


def open_log(log: Log) -> LogSink:
    """Open the log for writing, and the cache that some drivers need. Raises any exception of the drivers."""
    driver = _driver(log.driver)
    writers = [ringed(driver.open_writer(log.info, log.options), log.options)]
    if log.cache and not driver.capabilities.readable:
        writers.append(_driver(log.cache).open_writer(log.info, log.cache_options))
    return LogSink(*writers)


def _driver(name: str) -> LogDriver:
    factory = _factories.get(name) or discovery.find("log", name)
    driver: LogDriver = factory.make()
    return driver


class LogSink:
    """Splits output into lines and passes them to the writers. Owns the writers. `dropped` counts the blocks of lines that
    the first writer did not take."""

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
            except Exception as error:
                if not self.dropped:
                    print(f"log writer: {type(error).__name__}: {error}", file=sys.stderr)
                self.dropped += len(blocks) if writer is self._writers[0] else 0

    def close(self) -> None:
        for splitter in self._splitters.values():
            self._put(splitter.flush(time.time_ns()))
        for writer in self._writers:
            try:
                writer.close()
            except Exception as error:
                print(f"log writer: close: {type(error).__name__}: {error}", file=sys.stderr)
