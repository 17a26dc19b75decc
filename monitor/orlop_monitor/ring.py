"""The log option `mode=non-blocking`: a writer behind a buffer, so that output goes on while the disk does not.

Owns a thread, which owns the driver's writer. What has no room in the buffer is dropped, newest first, as dockerd's is; what
is in it when a monitor is killed is lost.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping, Sequence

from orlop_sdk.log import LogBlock, LogWriter

__all__ = ["RingWriter", "ringed"]

_LAST_WRITES = 10.0  # seconds for what is buffered at the end


def ringed(writer: LogWriter, options: Mapping[str, str]) -> LogWriter:
    """The writer, behind a buffer if the options say so."""
    if options.get("mode") != "non-blocking":
        return writer
    from orlop_sdk.logfiles import buffer_size

    return RingWriter(writer, buffer_size(options))


class RingWriter:
    """Implements `spi.LogWriter`. `limit` in bytes of output."""

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
        """Write what is buffered. A disk that hangs for longer keeps it, and nobody else."""
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
            except Exception as error:
                if not failed:
                    print(f"log writer: {type(error).__name__}: {error}", file=sys.stderr)
                failed = True
                if not blocks:
                    return
