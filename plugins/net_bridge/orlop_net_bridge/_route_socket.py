"""A netlink socket that asks for changes and waits until each is done. It belongs to the namespace the thread was in when
it was opened, wherever the thread goes later. For the network thread only.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from types import TracebackType
from typing import Self

from ._netlink import Request, encode, read_answers

__all__ = ["Refused", "RouteSocket"]

_BUFFER = 16384
_SECONDS = 10


class Refused(OSError):
    """The kernel's answer to one request: `errno` and `strerror` are its own."""

    def __init__(self, what: str, code: int) -> None:
        super().__init__(code, os.strerror(code))
        self.what = what

    def __str__(self) -> str:
        return f"cannot {self.what}: {self.strerror}"


class RouteSocket:
    """Owns the socket. `close` may be called twice."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        # The answers are there when `send` returns; an answer that got lost must not hold the network thread for ever.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", _SECONDS, 0))
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def change(self, *requests: Request) -> None:
        """Carry all of them out, also those that follow one that fails; raises `Refused` for the first that failed."""
        if not requests:
            return
        first = self._sequence + 1
        if first + len(requests) > 0xFFFFFFFF:
            first = 1
        self._sequence = first + len(requests) - 1
        self._socket.send(encode(requests, first))
        waiting = {first + place: request for place, request in enumerate(requests)}
        failures: list[Refused] = []
        while waiting:
            for sequence, code in self._receive():
                request = waiting.pop(sequence, None)  # None: an answer that came too late for its question
                if request is not None and code:
                    failures.append(Refused(request.what, code))
        if failures:
            raise failures[0]

    def _receive(self) -> list[tuple[int, int]]:
        try:
            datagram, (sender, _) = self._socket.recvfrom(_BUFFER)
        except BlockingIOError as error:
            raise TimeoutError(errno.ETIMEDOUT, f"no answer from the kernel within {_SECONDS} s") from error
        if sender:  # not the kernel: whoever is administrator in the container's network could write to us
            return []
        try:
            return list(read_answers(datagram))
        except ValueError as error:
            raise OSError(errno.EBADMSG, f"cannot understand the kernel's answer: {error}") from error
