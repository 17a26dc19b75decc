"""A netlink socket that sends requests and waits for their acknowledgements. The socket belongs to the namespace in which
the thread opened it, even when the thread enters another namespace. Only the network thread (see `_worker`) calls this
module.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from . import netlink
from .netlink import Request, encode, read_answers

__all__ = ["Refused", "RouteSocket"]

_BUFFER = 16384
_LISTING_BUFFER = 65536
_LISTINGS = 10
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
        with _understood():
            return list(read_answers(self._datagram(_BUFFER)))

    def _datagram(self, size: int) -> bytes:
        """The next datagram of the kernel; b"" for a datagram of another sender."""
        try:
            datagram, (sender, _) = self._socket.recvfrom(size)
        except BlockingIOError as error:
            raise TimeoutError(errno.ETIMEDOUT, f"no answer from the kernel within {_SECONDS} s") from error
        # 0 is the kernel; a process with CAP_NET_ADMIN in the container's network could also send to this socket
        return b"" if sender else datagram

    # --- listings ---------------------------------------------------------------------------------------------------

    def links(self, namespace_id: int | None = None) -> list[netlink.LinkInfo]:
        """The links of the socket's namespace, or of the namespace with this id (EINVAL if no namespace has the id)."""
        with _understood():
            return [netlink.read_link(body) for body in self._listing(netlink.list_links(namespace_id))]

    def namespace_ids(self) -> list[int]:
        """The ids of the namespaces that have an id in the socket's namespace."""
        with _understood():
            return [netlink.read_namespace_id(body) for body in self._listing(netlink.list_namespace_ids())]

    def namespace_id(self, namespace: int) -> int:
        """The id of the namespace to which the file descriptor `namespace` refers. Assigns an id if the namespace has
        none."""
        try:
            self.change(netlink.assign_namespace_id(namespace))
        except Refused as error:
            if error.errno != errno.EEXIST:
                raise
        with _understood():
            (body,) = self._listing(netlink.get_namespace_id(namespace))
            return netlink.read_namespace_id(body)

    def _listing(self, request: Request) -> list[bytes]:
        """The bodies of the messages that answer a request. Repeats a listing if the kernel's table changed meanwhile."""
        for _ in range(_LISTINGS):
            found, interrupted = self._answers(request)
            if not interrupted:
                return found
        return found

    def _answers(self, request: Request) -> tuple[list[bytes], bool]:
        self._sequence = self._sequence % 0xFFFFFFFF + 1
        self._socket.send(encode((request,), self._sequence))
        found: list[bytes] = []
        interrupted = False
        while True:
            for kind, flags, sequence, body in netlink.read_messages(self._datagram(_LISTING_BUFFER)):
                if sequence != self._sequence:
                    continue  # a late answer to a request that timed out
                interrupted |= bool(flags & netlink.NLM_F_DUMP_INTR)
                if kind not in (netlink.NLMSG_DONE, netlink.NLMSG_ERROR):
                    found.append(body)
                elif code := netlink.read_error(body):  # NLMSG_DONE contains an errno, too
                    raise Refused(request.what, code)
                else:
                    return found, interrupted


@contextlib.contextmanager
def _understood() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise OSError(errno.EBADMSG, f"cannot understand the kernel's answer: {error}") from error
