"""A non-blocking stream socket on the monitor's loop. Data that the peer does not read is queued in the channel.

The owner must watch the size of the queue (`pending`). If the queue is too large, the owner must stop sending, or close the
channel. `connection` implements frames, `streams` raw streams.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Sequence

from orlop_sdk import linux

from .loop import Loop

__all__ = ["Channel"]

_READ_SIZE = 64 << 10
_FDS_PER_MESSAGE = 253  # the kernel's limit (SCM_MAX_FD)
_PARTS = 64
_SO_SNDBUFFORCE = 32  # Python's socket module lacks this constant
_FINAL_BUFFER = 32 << 20


def _nothing() -> None:
    pass


class Channel:
    """Owns the socket. `on_data(data, fds)` is called with received data. `on_eof` is called when the peer shuts down
    writing, `on_drain` when the queue has become empty. `on_gone` is called once, if the peer has closed the connection or
    the connection is broken. By then, the channel has closed its socket."""

    def __init__(self, loop: Loop, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._loop = loop
        self._socket = sock
        self._fd = sock.fileno()
        self._queue: deque[memoryview] = deque()
        self._finishing = False
        self._reading = False
        self._at_eof = False
        self.closed = False
        self.takes_fds = True
        self.pending = 0
        self.on_data: Callable[[bytes, list[int]], None] = lambda data, fds: None
        self.on_eof: Callable[[], None] = _nothing
        self.on_gone: Callable[[], None] = _nothing
        self.on_drain: Callable[[], None] = _nothing
        loop.on_hangup(self._fd, self._hangup)

    def resume(self) -> None:
        if not self._reading and not self._at_eof and not self.closed:
            self._reading = True
            self._loop.on_readable(self._fd, self._readable)

    def pause(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.on_readable(self._fd, None)

    def _receive(self) -> tuple[bytes, list[int]]:
        if not self.takes_fds:
            return self._socket.recv(_READ_SIZE), []
        return linux.receive_fds(self._socket, _READ_SIZE, _FDS_PER_MESSAGE)

    def _readable(self) -> None:
        try:
            data, fds = self._receive()
        except BlockingIOError:
            return
        except OSError:
            self._gone()
            return
        if data:
            self.on_data(data, fds)
            return
        self.pause()
        self._at_eof = True
        self.on_eof()

    def _hangup(self) -> None:
        # Read the data that the peer wrote before it closed the connection; the last read calls `_gone`.
        if not self._reading:
            self._gone()

    def _gone(self) -> None:
        if not self.closed:
            self.close()
            self.on_gone()

    def send(self, parts: Sequence[bytes], fds: Sequence[int] = ()) -> None:
        """Send as much as the socket accepts now, and queue the remaining data. The descriptors `fds` are sent with the
        first byte. Pass descriptors only while the queue is empty. (The queue is empty when an answer is sent.)"""
        if self.closed or self._finishing:
            return
        sent = 0
        if not self._queue:
            try:
                sent = socket.send_fds(self._socket, parts, fds) if fds else self._socket.sendmsg(parts)
            except BlockingIOError:
                pass
            except OSError:
                self._gone()
                return
        for part in parts:
            if sent >= len(part):
                sent -= len(part)
                continue
            rest = memoryview(part)[sent:]
            sent = 0
            self._queue.append(rest)
            self.pending += len(rest)
        if self._queue:
            self._loop.on_writable(self._fd, self._writable)

    def _writable(self) -> None:
        try:
            self._flush()
        except BlockingIOError:
            return
        except OSError:
            self._gone()
            return
        self._loop.on_writable(self._fd, None)
        if self._finishing:
            self._shut_down()
        self.on_drain()

    def _flush(self) -> None:
        while self._queue:
            sent = self._socket.sendmsg([self._queue[i] for i in range(min(_PARTS, len(self._queue)))])
            self.pending -= sent
            while sent:
                first = self._queue[0]
                if sent < len(first):
                    self._queue[0] = first[sent:]
                    break
                sent -= len(first)
                self._queue.popleft()

    def finish(self) -> None:
        """Send the queued data, then shut down for writing. Input that still arrives is read and dropped."""
        if self.closed or self._finishing:
            return
        self._finishing = True
        self.on_data = lambda data, fds: None
        self.resume()
        if not self._queue:
            self._shut_down()

    def _shut_down(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self._gone()

    def push_out(self) -> None:
        """Enlarge the socket buffer and write all queued data to it, so that the peer can read the data after this process
        has ended."""
        if self.closed or not self._queue:
            return
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _FINAL_BUFFER)
            self._flush()
        except OSError:
            return
        if self._finishing:
            self._shut_down()

    def discard_input(self) -> None:
        """Read and drop pending input. Closing a unix socket with unread input resets the peer, which may then lose the last
        data sent to it."""
        try:
            while not self.closed and self._socket.recv(_READ_SIZE):
                pass
        except OSError:
            pass

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._reading = False
            self._loop.forget(self._fd)
            self._queue.clear()
            self.pending = 0
            self._socket.close()
