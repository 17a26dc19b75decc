"""Taking Docker's multiplexed stream apart, fast.

A frame is `>BxxxL` (stream, size) and a payload; formats: api/pkg/stdcopy in moby. Payloads are passed on as they arrive,
also the first half of one, and frames of the same stream that lie side by side are written with one system call.
"""

from __future__ import annotations

import os
import select
import signal
import struct
from collections.abc import Callable

from orlop_cli._errors import CliError
from orlop_cli.daemon.http import RECEIVE, Stream

HEADER = struct.Struct(">BxxxL")
STDIN, STDOUT, STDERR, SYSTEM = range(4)
# writev takes 1024 pieces (IOV_MAX). Below this size joining small payloads costs less than describing each to the kernel.
WRITEV_FROM = 8192
IOV_MAX = 1024
_NAMES = {1: "standard output", 2: "standard error"}

Run = tuple[int, list[memoryview]]


class Demultiplexer:
    """Sans-IO: feed() bytes, get runs of (stream, payload pieces). Pieces are views of what was fed."""

    def __init__(self) -> None:
        self._stream = STDOUT
        self._left = 0  # of the current payload, not seen yet
        self._head = b""  # a header cut in two
        self._system = b""

    def feed(self, data: bytes | memoryview) -> list[Run]:
        """Raises CliError for an error the daemon put into the stream, and for a stream number nobody defined."""
        view = memoryview(data)
        runs: list[Run] = []
        at, end = 0, len(view)
        if self._head:
            at = min(8 - len(self._head), end)
            self._head += view[:at]
            if len(self._head) < 8:
                return runs
            self._open(*HEADER.unpack(self._head))
            self._head = b""
        if self._left:
            at = self._take(view, at, end, runs)
        last = runs[-1][0] if runs else -1
        pieces = runs[-1][1] if runs else []
        unpack = HEADER.unpack_from
        while end - at >= 8:
            stream, size = unpack(view, at)
            at += 8
            if at + size > end or stream > STDERR:
                self._open(stream, size)
                at = self._take(view, at, end, runs)
                last = -1
            elif size:
                if stream != last:
                    pieces = []
                    runs.append((stream, pieces))
                    last = stream
                pieces.append(view[at : at + size])
                at += size
        self._head = self._head or bytes(view[at:end])
        return runs

    def _open(self, stream: int, size: int) -> None:
        if stream > SYSTEM:
            raise CliError(f"unrecognized stream: {stream}")
        self._stream, self._left, self._system = stream, size, b""

    def _take(self, view: memoryview, at: int, end: int, runs: list[Run]) -> int:
        """What is there of the current payload."""
        stop = min(at + self._left, end)
        self._left -= stop - at
        if self._stream == SYSTEM:
            self._system += view[at:stop]
            if not self._left:
                raise CliError(f"error from daemon in stream: {self._system.decode('utf-8', 'replace')}")
        elif stop > at:
            runs.append((self._stream, [view[at:stop]]))
        return stop


def write_run(fd: int, pieces: list[memoryview]) -> None:
    """Write all pieces to a descriptor, which may be non-blocking (a terminal shared with another program)."""
    if len(pieces) == 1:
        write_all(fd, pieces[0])
        return
    total = sum(map(len, pieces))
    if total < WRITEV_FROM * len(pieces):
        write_all(fd, memoryview(b"".join(pieces)))
        return
    for start in range(0, len(pieces), IOV_MAX):
        batch = pieces[start : start + IOV_MAX]
        size = sum(map(len, batch))
        try:
            written = os.writev(fd, batch)
        except OSError:
            written = 0  # write_all() waits, or says what is wrong
        if written < size:
            write_all(fd, memoryview(b"".join(batch))[written:])


def write_all(fd: int, data: memoryview | bytes) -> None:
    """Write everything; a reader who went away ends this process as it would end any other in a pipeline. Raises CliError
    for stdout and stderr that take no more, OSError for files."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            select.select([], [fd], [])
        except BrokenPipeError:
            die_of_broken_pipe()
        except OSError as error:
            if fd not in _NAMES:
                raise
            raise CliError(f"cannot write to {_NAMES[fd]}: {(error.strerror or str(error)).lower()}") from None


def die_of_broken_pipe() -> None:
    """End by SIGPIPE. Python ignores that signal, which is right for sockets; for stdout shells expect the default."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGPIPE)


def copy_raw(stream: Stream, rest: bytes, fd: int) -> None:
    """Copy until the end of the stream; a TTY's output is not framed."""
    write_all(fd, rest)
    _read_into(stream, lambda view: write_all(fd, view))


def copy_framed(stream: Stream, rest: bytes, fds: dict[int, int]) -> None:
    """Copy frames to the descriptors of their streams until the end; a stream without one is dropped."""
    write = framed_writer(fds)
    if rest:
        write(memoryview(rest))
    _read_into(stream, write)


def framed_writer(fds: dict[int, int]) -> Callable[[memoryview | bytes], None]:
    """A function that takes bytes of a multiplexed stream and writes them out. Stream 0 is printed on stdout (formats)."""
    demultiplexer = Demultiplexer()
    routes = {STDIN: fds.get(STDOUT), **fds}

    def write(data: memoryview | bytes) -> None:
        for stream, pieces in demultiplexer.feed(data):
            fd = routes.get(stream)
            if fd is not None:
                write_run(fd, pieces)

    return write


def _read_into(stream: Stream, use: Callable[[memoryview], None]) -> None:
    buffer = memoryview(bytearray(RECEIVE))
    while True:
        try:
            count = stream.recv_into(buffer)
        except ConnectionResetError:
            return  # a daemon that was killed: what the container's end was is asked elsewhere
        if not count:
            return
        use(buffer[:count])
