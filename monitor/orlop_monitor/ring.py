"""The log option `mode=non-blocking`: a buffer in front of the writer, so that a slow disk does not block the container's
output.

A thread owns the driver's writer. When the buffer is full, new entries are dropped, as in dockerd. Buffered entries are lost
when the monitor is killed.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping, Sequence

from orlop_sdk.log import LogBlock, LogWriter

__all__ = ["RingWriter", "ringed"]

_LAST_WRITES = 10.0  # seconds that `close` waits until the buffered entries are written


def ringed(writer: LogWriter, options: Mapping[str, str]) -> LogWriter:
    """Return the writer. If the options contain `mode=non-blocking`, a buffer is put in front of it."""
    if options.get("mode") != "non-blocking":
        return writer
    from orlop_sdk.logfiles import buffer_size

    return RingWriter(writer, buffer_size(options))


class RingWriter:
    """Implements `LogWriter`. `limit` is in bytes of output."""

    def __init__(self, writer: LogWriter, limit: int) -> None:
        self._writer = writer
        self._limit = limit
        self._blocks: list[LogBlock] = []
        self._size = 0
        self._closed = False
        self._changed = threading.Condition()
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, blocks: Sequence[LogBlock]) -> None:
        with self._changed:
            for block in blocks:
                if self._size and self._size + len(block.data) > self._limit:
                    self.dropped += 1
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

    def _run(self) -> None:
        failed = False
        while True:
            with self._changed:
                while not self._blocks and not self._closed:
                    self._changed.wait()
                blocks, self._blocks, self._size = self._blocks, [], 0
            try:
                if not blocks:
                    self._writer.close()
                    return
                self._writer.write(blocks)
            except BaseException as error:  # also SystemExit, which would end the thread
                if not failed:
                    print(f"log writer: {type(error).__name__}: {error}", file=sys.stderr)
                failed = True
                if not blocks:
                    return
