"""The standard streams of one process, and the clients attached to them.

`Output` reads the process's pipes or terminal and passes each read to the log and to all attachments. `Input` writes to the
process's standard input. `Attachment` connects one client to output and input. Up to 1 MiB of output is queued for a slow
client. After that, no output is read from the process until the client has read its queue (as in dockerd, whose limit is 1
MB). A client that disconnects is removed immediately.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial

from orlop_sdk import linux

from .channel import Channel
from .loop import Loop, Timer
from .protocol import Attach

__all__ = ["Attachment", "Input", "Output"]

Sink = Callable[[str, bytes, int], None]

_FRAME = struct.Struct(">BxxxL")  # Docker's multiplexed stream: stream number, three zeros, size
_STREAMS = {"stdout": 1, "stderr": 2}
_SLOW = 1 << 20
_LAST = 16 << 20
"""Bytes that are read after the process's end even if clients are slow. The pipes of the process contain less than this
limit. It bounds the memory for the output of a descendant that continues to write."""
_LOOK_AGAIN = 0.02  # seconds between two checks of a full sink
_LARGE, _TRIM_AFTER = 32 << 10, 10.0
_READ, _READ_UNLOGGED = 64 << 10, 256 << 10
"""Bytes per read. Larger reads are faster if the stream is only passed to clients. If it is also encoded for a log, reads
are 64 KiB, because then the data and its encoded form stay in the processor's cache."""
_INPUT_LIMIT = 256 << 10
_F_SETPIPE_SZ = 1031


class Input:
    """The writing end of a process's standard input. Data is queued until `open`, because a terminal does not exist before
    the process runs. Owns the descriptor."""

    def __init__(self, loop: Loop, terminal: bool) -> None:
        self._loop = loop
        self.terminal = terminal
        self._fd = -1
        self._queue: deque[memoryview] = deque()
        self._ending = False
        self.closed = False
        self._size = 0
        self._waiting: list[Callable[[], None]] = []

    def open(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._flush()

    @property
    def full(self) -> bool:
        return self._size > _INPUT_LIMIT

    def when_drained(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, when the queue has space again."""
        self._waiting.append(callback)

    def write(self, data: bytes) -> None:
        if self.closed or self._ending:
            return
        self._queue.append(memoryview(data))
        self._size += len(data)
        if len(self._queue) == 1:
            self._flush()

    def end(self) -> None:
        """Close the input after the queued data is written. A terminal stays open, because its input has no end."""
        if not self.terminal and not self.closed:
            self._ending = True
            if not self._queue:
                self.close()

    def _flush(self) -> None:
        if self._fd < 0 or self.closed:
            return
        try:
            while self._queue:
                sent = os.write(self._fd, self._queue[0])
                self._size -= sent
                if sent == len(self._queue[0]):
                    self._queue.popleft()
                else:
                    self._queue[0] = self._queue[0][sent:]
        except BlockingIOError:
            self._loop.on_writable(self._fd, self._flush)
        except OSError:
            self.close()  # the process has closed its standard input or has ended
        else:
            self._loop.on_writable(self._fd, None)
            if self._ending:
                self.close()
        if not self.full:
            waiting, self._waiting = self._waiting, []
            for callback in waiting:
                callback()

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._queue.clear()
        self._size = 0
        if self._fd >= 0:
            self._loop.forget(self._fd)
            os.close(self._fd)
        waiting, self._waiting = self._waiting, []
        for callback in waiting:
            callback()


class _Source:
    """One of the pipes (or the terminal) to which the process writes."""

    def __init__(self, stream: str, fd: int) -> None:
        self.stream = stream
        self.fd = fd
        self.size = _READ


class Output:
    """Owns the reading ends. `sink(stream, data, time_ns)` gets every read before the attachments do. While `is_full()` is
    true, the sink takes no more data."""

    def __init__(self, loop: Loop, sink: Sink | None = None, is_full: Callable[[], bool] = lambda: False) -> None:
        self._loop = loop
        self._sink = sink
        self._largest = _READ if sink else _READ_UNLOGGED
        self._sources: list[_Source] = []
        self._attachments: list[Attachment] = []
        self._running = False
        self._on_end: Callable[[], None] | None = None
        self._deadline: Timer | None = None
        self._last = 0
        self._trim: Timer | None = None
        self._is_full = is_full
        self._sink_timer: Timer | None = None

    def start(self, sources: Mapping[str, int]) -> None:
        """Start reading. Takes ownership of the descriptors."""
        for stream, fd in sources.items():
            os.set_blocking(fd, False)
            self._sources.append(_Source(stream, fd))
        self._running = True
        self._adjust()

    def attach(self, attachment: Attachment) -> None:
        self._attachments.append(attachment)
        self._adjust()

    def detach(self, attachment: Attachment) -> None:
        if attachment in self._attachments:
            self._attachments.remove(attachment)
            self._adjust()

    def _adjust(self) -> None:
        """Start or stop reading. While a client is slow or the sink is full, nothing is read. After the process's end, the
        time for reading is limited; up to `_LAST` bytes are then read in spite of a slow client or a full sink."""
        is_slow = self._sink_timer is not None or any(attachment.slow for attachment in self._attachments)
        wanted = self._running and (self._last > 0 or not is_slow)
        for source in self._sources:
            self._loop.on_readable(source.fd, partial(self._read, source) if wanted else None)

    def reader_caught_up(self) -> None:
        self._adjust()

    def _read(self, source: _Source) -> None:
        try:
            data = os.read(source.fd, source.size)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.EIO:  # EIO: the last process has closed the terminal
                raise
            data = b""
        if not data:
            self._close_source(source)
            return
        if len(data) == source.size < self._largest:
            self._grow(source)
        self._deliver(source.stream, data)

    def _grow(self, source: _Source) -> None:
        source.size = min(2 * source.size, self._largest)
        try:
            fcntl.fcntl(source.fd, _F_SETPIPE_SZ, source.size)
        except OSError:
            pass  # a terminal has no pipe buffer, or the user's limit for pipe buffers is reached

    def _deliver(self, stream: str, data: bytes) -> None:
        if len(data) >= _LARGE and self._trim is None:
            self._trim = self._loop.call_later(_TRIM_AFTER, self._give_back)
        if self._sink:
            self._sink(stream, data, time.time_ns())
        self._last = max(0, self._last - len(data))
        slow = self._is_full()
        if slow and self._sink_timer is None:
            self._sink_timer = self._loop.call_later(_LOOK_AGAIN, self._look_again)
        for attachment in tuple(self._attachments):
            attachment.output(stream, data)
            slow = slow or attachment.slow
        if slow:
            self._adjust()

    def _look_again(self) -> None:
        self._sink_timer = (
            self._loop.call_later(_LOOK_AGAIN, self._look_again) if self._running and self._is_full() else None
        )
        if self._sink_timer is None:
            self._adjust()

    def _give_back(self) -> None:
        """Return the memory of buffers to the kernel after a burst of output (see `linux.keep_freed_memory`)."""
        self._trim = None
        linux.release_freed_memory()

    def _close_source(self, source: _Source) -> None:
        self._sources.remove(source)
        self._loop.forget(source.fd)
        os.close(source.fd)
        if not self._sources and self._on_end:
            self._ended()

    def end(self, seconds: float, callback: Callable[[], None]) -> None:
        """Called when the process is dead. Calls `callback` at the end of its output, and at the latest after `seconds`,
        because a descendant may keep the pipe open for ever. Attachments stay open."""
        self._on_end, self._last = callback, _LAST
        self._deadline = self._loop.call_later(seconds, self._ended)
        self._adjust()
        if not self._sources:
            self._ended()

    def end_now(self) -> None:
        """End immediately, as if the timeout of `end` had expired."""
        if self._on_end:
            self._ended()

    def _ended(self) -> None:
        callback, self._on_end = self._on_end, None
        if self._deadline:
            self._deadline.cancel()
        for source in tuple(self._sources):
            self._close_source(source)
        if callback:
            callback()

    def finish_attachments(self) -> None:
        """End every attached stream after its queued data."""
        for attachment in tuple(self._attachments):
            attachment.finish()


class Attachment:
    """One client attached to the streams of one process. Owns its channel."""

    def __init__(self, channel: Channel, request: Attach, input_: Input | None, output: Output, framed: bool) -> None:
        self._channel = channel
        self._request = request
        self._input = input_ if request.stdin else None
        self._output = output
        self._framed = framed if request.framed is None else request.framed
        channel.on_data = self._received
        channel.on_eof = self._input_ended
        channel.on_gone = self._gone
        channel.on_drain = self._drained

    def join(self, early: bytes) -> None:
        """Start passing data. `early` is standard input that arrived together with the request."""
        self._output.attach(self)
        if early:
            self._received(early, [])
        self._resume()

    @property
    def slow(self) -> bool:
        return self._channel.pending > _SLOW

    def output(self, stream: str, data: bytes) -> None:
        if not (self._request.stdout if stream == "stdout" else self._request.stderr):
            return
        if self._framed:
            self._channel.send((_FRAME.pack(_STREAMS[stream], len(data)), data))
        else:
            self._channel.send((data,))

    def _drained(self) -> None:
        self._output.reader_caught_up()

    def _received(self, data: bytes, fds: list[int]) -> None:
        if self._input is None:
            return  # Docker drops input for a process without standard input
        self._input.write(data)
        if self._input.full:
            self._channel.pause()
            self._input.when_drained(self._resume)

    def _resume(self) -> None:
        self._channel.resume()

    def _input_ended(self) -> None:
        """Called when the client has shut down writing. As in dockerd: with StdinOnce and without a terminal, the process's
        input is closed, and output continues. Otherwise an attachment with standard input ends, and an attachment without
        standard input continues."""
        if self._input is None:
            return
        if self._request.stdin_once and not self._input.terminal:
            self._input.end()
        else:
            self.finish()

    def finish(self) -> None:
        self._output.detach(self)
        self._channel.on_drain = lambda: None
        self._channel.finish()

    def _gone(self) -> None:
        """Called when the client has disconnected. While input is paused, EOF is not read, so this method ends the input as
        well."""
        self._output.detach(self)
        if self._input is not None and self._request.stdin_once:
            self._input.end()
