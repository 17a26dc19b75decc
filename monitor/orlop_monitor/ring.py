"""The log option `mode=non-blocking`: a buffer in front of the writer, so that a slow disk does not block the container's
output.

A thread owns the driver's writer. When the buffer is full, new entries are dropped, as in dockerd. Buffered entries are lost
when the monitor is killed.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping, Sequence

from orlop_sdk.log import CountingLogWriter, LogBlock, LogWriter, entries

__all__ = ["RingWriter", "ringed"]

_LAST_WRITES = 10.0  # seconds that `close` waits until the buffered entries are written


def ringed(writer: LogWriter, options: Mapping[str, str]) -> LogWriter:
    """Return the writer. If the options contain `mode=non-blocking`, a buffer is put in front of it."""
    if options.get("mode") != "non-blocking":
        return writer
    from orlop_sdk.logfiles import buffer_size

    return RingWriter(writer, buffer_size(options))


class RingWriter:
    """Implements `CountingLogWriter`. `limit` is the size of the buffer, in bytes of output. `reason` is the writer's last
    exception, or says that the buffer was full; "" when no entry is lost."""

    def __init__(self, writer: LogWriter, limit: int) -> None:
        self._writer = writer
        self._limit = limit
        self._blocks: list[LogBlock] = []
        self._size = 0
        self._closed = False
        self._changed = threading.Condition()
        self._dropped = 0
        self._unwritten = 0  # number of entries that the thread is writing
        self.reason = ""
        self._counting = writer if isinstance(writer, CountingLogWriter) else None
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """The number of lost entries: those that arrived while the buffer was full, and those that the writer did not
        log."""
        return self._dropped + (self._counting.dropped if self._counting is not None else 0)

    def write(self, blocks: Sequence[LogBlock]) -> None:
        with self._changed:
            for block in blocks:
                if self._size and self._size + len(block.data) > self._limit:
                    self._dropped += entries((block,))
                    self.reason = self.reason or "the buffer of mode=non-blocking was full"
                    continue
                self._blocks.append(block)
                self._size += len(block.data)
            self._changed.notify()

    def close(self) -> None:
        """Write the buffered entries. If the disk hangs, entries that are not written within 10 s are lost."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(_LAST_WRITES)
        with self._changed:
            self._dropped += self._unwritten + entries(self._blocks)
            self._unwritten, self._blocks = 0, []

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._blocks and not self._closed:
                    self._changed.wait()
                blocks, self._blocks, self._size = self._blocks, [], 0
                self._unwritten = entries(blocks)
            try:
                if not blocks:
                    self._writer.close()
                    return
                self._writer.write(blocks)
            except BaseException as error:  # also SystemExit, which would end the thread
                self._failed(error)
                if not blocks:
                    return
            self._unwritten = 0

    def _failed(self, error: BaseException) -> None:
        with self._changed:
            self._dropped += self._unwritten
            self._unwritten = 0
        reason = f"{type(error).__name__}: {error}"
        if reason != self.reason:
            print(f"log writer: {reason}", file=sys.stderr)
        self.reason = reason
