"""A netlink socket that sends requests and waits for their acknowledgements. The socket belongs to the namespace in which
the thread opened it, even when the thread enters another namespace. Only the network thread (see `_worker`) calls this
module.
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
    """The kernel refused a request. `errno` is the kernel's error number."""

    def __init__(self, what: str, code: int) -> None:
        super().__init__(code, os.strerror(code))
        self.what = what

    def __str__(self) -> str:
        return f"cannot {self.what}: {self.strerror}"


class RouteSocket:
    """The socket. `close` may be called twice."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        # The answers are available when `send` returns. A lost answer must not block the network thread for ever.
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
        """Execute all requests, even after one that fails. Raises `Refused` for the first request that failed."""
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
                request = waiting.pop(sequence, None)  # None means a late answer to a request that timed out
                if request is not None and code:
                    failures.append(Refused(request.what, code))
        if failures:
            raise failures[0]

    def _receive(self) -> list[tuple[int, int]]:
        try:
            datagram, (sender, _) = self._socket.recvfrom(_BUFFER)
        except BlockingIOError as error:
            raise TimeoutError(errno.ETIMEDOUT, f"no answer from the kernel within {_SECONDS} s") from error
        if sender:  # 0 is the kernel; a process with CAP_NET_ADMIN in the container's network could also send to this socket
            return []
        try:
            return list(read_answers(datagram))
        except ValueError as error:
            raise OSError(errno.EBADMSG, f"cannot understand the kernel's answer: {error}") from error
