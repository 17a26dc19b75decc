"""A fast parser of Docker's multiplexed stream.

A frame is `>BxxxL` (stream, size) and a payload (see api/pkg/stdcopy in moby). Payloads are passed on as they arrive, even
if they are incomplete. Adjacent frames of one stream are written with one system call.
"""

from __future__ import annotations

import os
import select
from struct import Struct

from orlop_cli._errors import CliError
from orlop_cli.daemon.http import RECEIVE

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Callable

    from orlop_cli.daemon.http import Stream


HEADER = Struct(">BxxxL")
STDIN, STDOUT, STDERR, SYSTEM = range(4)
# writev accepts 1024 pieces (IOV_MAX). Below this size, joining small payloads is cheaper than passing many pieces to the
# kernel.
WRITEV_FROM = 8192
IOV_MAX = 1024
_NAMES = {1: "standard output", 2: "standard error"}

Run = tuple[int, list[memoryview]]


class Demultiplexer:
    """Parses frames, without I/O. feed() returns runs of (stream, payload pieces). The pieces are views of the input."""

    def __init__(self) -> None:
        self._stream = STDOUT
        self._left = 0  # bytes of the current payload that have not arrived yet
        self._head = b""  # the beginning of an incomplete header
        self._system = b""

    def feed(self, data: bytes | memoryview) -> list[Run]:
        """Parse bytes. Raises CliError for an error that the daemon sends in the stream, and for an unknown stream
        number."""
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
        """Add the available part of the current payload to `runs`."""
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
            written = 0  # write_all() below waits or raises an error
        if written < size:
            write_all(fd, memoryview(b"".join(batch))[written:])


def write_all(fd: int, data: memoryview | bytes) -> None:
    """Write all bytes. If the reader has closed the pipe, the process ends by SIGPIPE, like other programs in a pipeline.
    Raises CliError when stdout or stderr cannot be written, OSError for files."""
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
    """End the process by SIGPIPE. Python ignores this signal, which is right for sockets, but for stdout, shells expect its
    default action."""
    import signal

    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGPIPE)


def copy_raw(stream: Stream, rest: bytes, fd: int) -> None:
    """Copy a stream without frames (a TTY's output) until its EOF."""
    write_all(fd, rest)
    _read_into(stream, lambda view: write_all(fd, view))


def copy_framed(stream: Stream, rest: bytes, fds: dict[int, int]) -> None:
    """Copy frames to the descriptors of their streams until EOF. Frames of streams without a descriptor are dropped."""
    write = framed_writer(fds)
    if rest:
        write(memoryview(rest))
    _read_into(stream, write)


def framed_writer(fds: dict[int, int]) -> Callable[[memoryview | bytes], None]:
    """A function that demultiplexes bytes and writes the payloads. Stream 0 is also written to stdout."""
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
            return  # the daemon was killed; callers get the exit code from another request
        if not count:
            return
        use(buffer[:count])
