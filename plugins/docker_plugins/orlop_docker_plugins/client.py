"""HTTP calls of one plugin. Each call has its own connection and runs on a thread. When a call is cancelled or its time is
over, its connection is shut down, so that the thread ends whatever the plugin does."""

from __future__ import annotations

import http.client
import logging
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
import trio

from orlop_sdk import DeadlineExceeded, DriverError, Unavailable

from .address import Address

__all__ = ["Client", "Refused"]

T = TypeVar("T")

_LIMIT = 4 << 20  # bytes of an answer; a list of ten thousand volumes has 2 MB
_CONNECT = 10.0  # seconds for a connection
_PAUSE = 0.02  # seconds between two attempts to connect
_HEADERS = {"Accept": "application/vnd.docker.plugins.v1.2+json", "Content-Type": "application/vnd.docker.plugins.v1.2+json"}

_log = logging.getLogger("orlop.drivers")


class Refused(DriverError):
    """The plugin has answered with an error. The text is the same as in Docker: "METHOD: ERROR"."""


class _Error(msgspec.Struct, rename="pascal"):
    err: str = ""


class _Connection(http.client.HTTPConnection):
    """`cut` may be called by another thread, at any time."""

    def __init__(self, address: Address) -> None:
        super().__init__("plugin.moby.localhost")
        self._address = address
        self._lock = threading.Lock()
        self._raw: socket.socket | None = None
        self._is_cut = False

    def connect(self) -> None:
        address = self._address
        if address.unix:
            made = socket.socket(socket.AF_UNIX)
            made.settimeout(_CONNECT)
            self._keep(made)
            self._connect(made, address.unix)
        else:
            made = socket.create_connection((address.host, address.port), _CONNECT)
            self._keep(made)
            if address.context:
                made = address.context.wrap_socket(made, server_hostname=address.host)
                self._keep(made)
        made.settimeout(None)  # from here, `cut` ends each wait
        self.sock = made

    def _connect(self, made: socket.socket, path: str) -> None:
        """A socket with a timeout does not wait while the plugin's backlog is full (connect(2): EAGAIN)."""
        end = time.monotonic() + _CONNECT
        while True:
            try:
                return made.connect(path)
            except BlockingIOError:
                if time.monotonic() > end:
                    raise TimeoutError("the plugin accepts no connection") from None
            time.sleep(_PAUSE)
            self._keep(made)

    def _keep(self, made: socket.socket) -> None:
        with self._lock:
            self._raw = made
            if self._is_cut:
                raise ConnectionAbortedError("the call was cancelled")

    def cut(self) -> None:
        with self._lock:
            self._is_cut = True
            if self._raw is not None and self._raw.fileno() >= 0:
                try:
                    socket.socket.shutdown(self._raw, socket.SHUT_RDWR)
                except OSError:
                    pass  # it is not connected

    def close(self) -> None:
        super().close()
        with self._lock:
            if self._raw is not None:
                self._raw.close()


class Client:
    """`label` names the plugin in messages."""

    def __init__(self, name: str, address: Address) -> None:
        self.label = f'volume plugin "{name}" at {address.text}'
        self._address = address
        self._threads = trio.CapacityLimiter(32)

    async def call(self, method: str, body: Mapping[str, Any], kind: type[T]) -> T:
        """Raises `Refused` for an error of the plugin, `DriverError` for an invalid answer, and `Unavailable` if there is no
        connection or it breaks. Has no deadline: the caller cancels it."""
        connection = _Connection(self._address)
        data = msgspec.json.encode(body)
        try:
            return await trio.to_thread.run_sync(
                self._exchange, connection, method, data, kind, abandon_on_cancel=True, limiter=self._threads
            )
        except trio.Cancelled:
            _log.info("%s has not answered %s until the call was cancelled", self.label, method)
            connection.cut()
            raise

    def call_blocking(self, method: str, body: bytes, kind: type[T], seconds: float) -> T:
        """Like `call`, with a deadline."""
        connection = _Connection(self._address)
        late = threading.Event()

        def cut() -> None:
            late.set()
            connection.cut()

        timer = threading.Timer(seconds, cut)
        timer.daemon = True
        timer.start()
        try:
            return self._exchange(connection, method, body, kind)
        except (DriverError, Unavailable):
            if late.is_set():
                raise DeadlineExceeded(f"{self.label} gave no answer to {method} in {seconds:g} s") from None
            raise
        finally:
            timer.cancel()

    def _exchange(self, connection: _Connection, method: str, data: bytes, kind: type[T]) -> T:
        try:
            connection.request("POST", f"/{method}", data, _HEADERS)
            with connection.getresponse() as answer:
                body = answer.read(_LIMIT + 1)
                if answer.length and len(body) <= _LIMIT:
                    raise http.client.IncompleteRead(body, answer.length)
        except (OSError, http.client.HTTPException, ssl.SSLError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise Unavailable(f"{self.label} does not answer {method}: {reason}") from error
        finally:
            connection.close()
        if len(body) > _LIMIT:
            raise DriverError(f"{self.label}: the answer to {method} is larger than {_LIMIT >> 20} MiB")
        return self._decode(method, answer.status, body, kind)

    def _decode(self, method: str, status: int, body: bytes, kind: type[T]) -> T:
        if status != 200:
            raise Refused(f"{method}: {_complaint(body) or f'status {status}'}")
        try:
            if message := msgspec.json.decode(body or b"{}", type=_Error).err:
                raise Refused(message)
            return msgspec.json.decode(body or b"{}", type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise DriverError(f"{self.label}: the answer to {method} cannot be read: {error}") from error


def _complaint(body: bytes) -> str:
    """The message of an answer with another status than 200. As in Docker, it may be JSON or text."""
    try:
        return msgspec.json.decode(body, type=_Error).err
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return body[:4096].decode("utf-8", "replace").strip()
