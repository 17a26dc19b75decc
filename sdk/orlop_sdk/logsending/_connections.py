"""Connections of senders: streams (TCP, TLS, unix) and datagrams (UDP, unix)."""

from __future__ import annotations

import contextlib
import errno
import socket
from abc import ABC, abstractmethod
from collections.abc import Sequence

import msgspec

from orlop_sdk.log import LogBlock

from ._lines import Item, LogLine, lines_of

__all__ = ["DatagramSender", "StreamSender", "Tls"]

_CONNECT_SECONDS = 10.0
_DEAD_AFTER = 30_000  # milliseconds; if the peer acknowledges no data for this time, the connection fails (TCP_USER_TIMEOUT)
_AT_ONCE = 64 << 10  # bytes of output in one call of `send`
_GONE = (errno.ECONNREFUSED, errno.ECONNRESET, errno.ENOENT, errno.ENOTCONN, errno.EPIPE)


class Tls(msgspec.Struct, frozen=True):
    """The settings of a TLS connection. `ca`, `cert` and `key` are paths of PEM files; "" means no file. `verify`: check the
    certificate of the service. `name`: the name that this certificate must contain; "" means the host in the address."""

    ca: str = ""
    cert: str = ""
    key: str = ""
    verify: bool = True
    name: str = ""

    def secure(self, made: socket.socket, host: str) -> socket.socket:
        """Start TLS on a connection to `host`, and return the secured socket. Raises `OSError`."""
        import ssl

        context = ssl.create_default_context(cafile=self.ca or None)
        if not self.verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if self.cert:
            context.load_cert_chain(self.cert, self.key or None)
        return context.wrap_socket(made, server_hostname=self.name or host)


def _whole(encoded: Sequence[bytes], sent: int) -> int:
    """The number of items that lie completely in the first `sent` bytes."""
    for number, data in enumerate(encoded):
        sent -= len(data)
        if sent < 0:
            return number
    return len(encoded)


class StreamSender(ABC):
    """A `Sender` over a stream. `address` is (host, port), or the path of a unix socket. A subclass implements `encode`. A
    line is not sent if `encode` returns nothing."""

    def __init__(self, address: tuple[str, int] | str, tls: Tls | None = None) -> None:
        self.address = address
        self._tls = tls
        self.socket: socket.socket | None = None

    @abstractmethod
    def encode(self, line: LogLine) -> bytes: ...

    def encode_block(self, block: LogBlock) -> bytes:
        """Encode a block of whole lines. A subclass may override this method, if it can encode a block faster than line by
        line."""
        return b"".join(map(self.encode, lines_of([block])))

    def open(self) -> None:
        if isinstance(self.address, str):
            made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                made.connect(self.address)
            except OSError:
                made.close()
                raise
        else:
            made = socket.create_connection(self.address, _CONNECT_SECONDS)
            made.settimeout(None)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD_AFTER)
        self.socket = self._secured(made)

    def _secured(self, made: socket.socket) -> socket.socket:
        if self._tls is None or isinstance(self.address, str):
            return made
        try:
            made.settimeout(_CONNECT_SECONDS)
            secured = self._tls.secure(made, self.address[0])
            secured.settimeout(None)
            return secured
        except BaseException:
            made.close()
            raise

    def send(self, items: Sequence[Item]) -> int:
        if self.socket is None or self._has_hung_up():
            raise OSError("the service has closed the connection")
        encoded: list[bytes] = []
        size = 0
        for item in items:
            encoded.append(self.encode(item) if isinstance(item, LogLine) else self.encode_block(item))
            size += len(encoded[-1])
            if size >= _AT_ONCE:
                break
        view = memoryview(b"".join(encoded))
        sent = 0
        try:
            while sent < len(view):
                sent += self.socket.send(view[sent:])
        except OSError:
            whole = _whole(encoded, sent)
            if not whole:
                raise
            self.close()
            return whole  # the other lines are sent over the next connection
        return len(encoded)

    def _has_hung_up(self) -> bool:
        """Whether the peer has closed the connection. Without this check, the next lines would be lost: a write to a closed
        connection succeeds, and only the following write fails."""
        if self._tls is not None:
            return False  # a TLS socket does not support MSG_PEEK
        assert self.socket is not None
        try:
            return self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False

    def close(self) -> None:
        if self.socket is not None:
            with contextlib.suppress(OSError):
                self.socket.close()
            self.socket = None


class DatagramSender(ABC):
    """A `Sender` of datagrams. `address` is (host, port), or the path of a unix socket. A subclass implements
    `datagrams`."""

    def __init__(self, address: tuple[str, int] | str) -> None:
        self.address = address
        self.socket: socket.socket | None = None

    @abstractmethod
    def datagrams(self, line: LogLine) -> Sequence[bytes]:
        """The datagrams of a line; none if the line is not sent."""
        ...

    def open(self) -> None:
        if isinstance(self.address, str):
            family, address = socket.AF_UNIX, self.address
        else:
            family, _, _, _, address = socket.getaddrinfo(*self.address, type=socket.SOCK_DGRAM)[0]  # type: ignore[assignment]
        made = socket.socket(family, socket.SOCK_DGRAM)
        try:
            made.connect(address)
        except OSError:
            made.close()
            raise
        self.socket = made

    def send(self, items: Sequence[Item]) -> int:
        for number, item in enumerate(items):
            try:
                for line in lines_of([item]):
                    for data in self.datagrams(line):
                        self.send_datagram(data)
            except OSError:
                if not number:
                    raise
                return number
        return len(items)

    def send_datagram(self, data: bytes) -> None:
        """Raises `OSError` if no process listens at a unix socket. A datagram is lost if it is too long, or if no process
        listens on the UDP port."""
        assert self.socket is not None
        try:
            self.socket.send(data)
        except OSError as error:
            if isinstance(self.address, str) and error.errno in _GONE:
                raise

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = None
