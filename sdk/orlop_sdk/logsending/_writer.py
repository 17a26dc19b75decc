"""The queue between a container's monitor and the thread that sends."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from orlop_sdk.log import LogBlock, entries
from orlop_sdk.logfiles import buffer_size

from ._lines import Item, Numbering

__all__ = ["Sender", "SendingWriter"]

_LIMIT = 8 << 20
"""Bytes of queued output, unless `max-buffer-size` is given."""
_SLOW = 1 << 20
"""Bytes per second. If the service takes less while the queue is full, it is too slow, and lines are dropped."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # seconds between attempts to connect
_LAST_SECONDS = 5.0  # seconds that `close` waits at most, while the service takes lines
_STALLED_SECONDS = 0.5  # seconds; if the service takes no data for this time, `close` stops waiting


def _lines(items: Sequence[Item]) -> int:
    return sum(item.data.count(b"\n") or 1 for item in items)


class Sender(Protocol):
    """The connection to a service. Used by one thread."""

    def open(self) -> None:
        """Connect. May be called after `close`. Raises `OSError`."""
        ...

    def send(self, items: Sequence[Item]) -> int:
        """Send the items in order, and return how many were sent, at least one. Raises `OSError` if the connection fails
        before the whole first item is sent; this item is then sent again. Blocks while the service is slow."""
        ...

    def close(self) -> None:
        """Close the connection. May be called twice."""
        ...


class SendingWriter:
    """Implements `ThrottledLogWriter` and `CountingLogWriter`. `dropped` counts lines that arrived while the queue was full,
    that could not be encoded, or that were not sent before `close` gave up.

    `name` is the driver's name, for messages. `limit` is the size of the queue in bytes, unless `options` have
    `max-buffer-size`. The monitor reads no output while `full` is true.
    """

    def __init__(self, name: str, sender: Sender, options: Mapping[str, str], limit: int | None = None) -> None:
        mode = options.get("mode", "")
        self._name = name
        self._sender = sender
        self._limit = buffer_size(options) if mode == "non-blocking" else limit or _LIMIT
        self._waits, self._never_waits = mode == "blocking", mode == "non-blocking"
        self._changed = threading.Condition()
        self._blocks: list[LogBlock] = []
        self._size = 0
        self._sent_bytes = 0
        self._full_since: tuple[float, int] | None = None
        self._closed = False
        self._abandoned = False
        self.dropped = 0
        self._sending: Sequence[Item] = ()  # what the thread is sending
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def full(self) -> bool:
        """Whether the container should wait. This is so if the queue is full, and the service is fast enough or `mode` is
        `blocking`."""
        if self._size < self._limit or self._never_waits or self._closed:
            self._full_since = None
            return False
        now = time.monotonic()
        if self._waits or self._full_since is None:
            self._full_since = self._full_since or (now, self._sent_bytes)
            return True
        since, sent = self._full_since
        if now - since < 1:
            return True
        if self._sent_bytes - sent < _SLOW * (now - since):
            return False
        self._full_since = now, self._sent_bytes
        return True

    def write(self, blocks: Sequence[LogBlock]) -> None:
        with self._changed:
            for block in blocks:
                if self._size >= 2 * self._limit or (self._size >= self._limit and not self.full):
                    self.dropped += entries((block,))
                    continue
                self._blocks.append(block)
                self._size += len(block.data)
            self._changed.notify()

    def close(self) -> None:
        """Send the queued lines. Waits at most 5 s, and stops earlier if the service has taken no line for half a second.
        Lines that are still in the queue are then lost."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify()
        end = time.monotonic() + _LAST_SECONDS
        seen, since = self._sent_bytes, time.monotonic()
        while self._thread.is_alive() and time.monotonic() < end:
            self._thread.join(0.02)
            if self._sent_bytes != seen:
                seen, since = self._sent_bytes, time.monotonic()
            elif time.monotonic() - since > _STALLED_SECONDS:
                break
        with self._changed:
            self._abandoned = True
            self.dropped += _lines(self._sending) + entries(self._blocks)
            self._changed.notify()
        if self._size:
            print(f"log driver {self._name}: {self._size} bytes of output were not sent", file=sys.stderr)

    # --- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        items, is_open, pause, numbering = list[Item](), False, _FIRST_PAUSE, Numbering()
        while not self._abandoned:
            if not items:
                blocks = self._take()
                if not blocks:
                    break
                items = numbering.items(blocks)
                # The items do not contain the newline after a long line. Count it as sent, so that the size of an empty
                # queue is 0
                self._count(sum(len(block.data) for block in blocks) - sum(len(item.data) for item in items))
                self._sending = items
            try:
                if not is_open:
                    self._sender.open()
                    is_open = True
                sent = self._sender.send(items)
            except OSError as error:
                self._sender.close()
                if pause == _FIRST_PAUSE:
                    print(f"log driver {self._name}: {error}", file=sys.stderr)
                is_open, pause = False, self._wait(pause)
                continue
            except Exception as error:
                print(f"log driver {self._name}: {type(error).__name__}: {error}", file=sys.stderr)
                self.dropped += _lines(items)
                sent = len(items)
            pause = _FIRST_PAUSE
            self._count(sum(len(item.data) for item in items[:sent]))
            items = items[sent:]
            self._sending = items
        self._sender.close()

    def _take(self) -> list[LogBlock]:
        """Wait for output. Returns an empty list when the writer is closed and the queue is empty."""
        with self._changed:
            while not self._blocks and not self._closed:
                self._changed.wait()
            blocks, self._blocks = self._blocks, []
            return blocks

    def _count(self, size: int) -> None:
        with self._changed:
            self._size -= size
            self._sent_bytes += size

    def _wait(self, pause: float) -> float:
        """Wait for `pause` seconds before another attempt to connect. Returns twice this pause, at most 5 s, for the next
        call."""
        end = time.monotonic() + pause
        with self._changed:
            while not self._abandoned and (left := end - time.monotonic()) > 0:
                self._changed.wait(left)
        return min(2 * pause, _LONGEST_PAUSE)
