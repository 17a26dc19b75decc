"""TLS over a socket with a half-close, for hijacked streams.

`ssl.SSLSocket.shutdown(SHUT_WR)` discards the TLS state, and with it all later output of the daemon. In this module, a
close_notify closes the write side, and reading continues. (According to RFC 8446 section 6.1, close_notify closes only one
direction.)

Two threads use a stream, one to read and one to write. `_lock` protects the TLS object, and `_sending` the order of sent
records. A reader never waits for `_sending`. The writer holds this lock, and may be blocked until the peer's data is read.
"""

from __future__ import annotations

import socket
import ssl
import threading

from orlop_cli.daemon.http import RECEIVE


def context(ca: str | None, cert: str | None, key: str | None, verify: bool) -> ssl.SSLContext:
    """A client context. Without `verify`, the peer's name and chain are not checked (Docker's `--tls`)."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    if not verify:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    if ca:
        made.load_verify_locations(ca)
    elif verify:
        made.load_default_certs()
    if cert:
        made.load_cert_chain(cert, key)
    return made


def _told(error: ssl.SSLError) -> str:
    """The message for a TLS error. In TLS 1.3, a daemon refuses the client's certificate only after the client has finished
    its handshake."""
    _, alert, why = (error.reason or "").partition("_ALERT_")
    return f"the daemon refused the TLS connection: {why.replace('_', ' ').lower()}" if alert else f"TLS: {error.reason}"


class TlsStream:
    """Implements orlop_cli.daemon.http.Stream over TLS. Raises ssl.SSLError and OSError."""

    def __init__(self, raw: socket.socket, ctx: ssl.SSLContext, server: str) -> None:
        self._raw = raw
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = ctx.wrap_bio(self._in, self._out, server_hostname=server)
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._ready = b""  # decrypted but not yet read
        self._handshake()

    def _handshake(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                if not self._fill():
                    raise ConnectionResetError("connection closed during the TLS handshake") from None
            else:
                self._flush()
                return

    def _flush(self) -> None:
        """Send pending TLS records. The caller holds `_sending` but not `_lock`."""
        with self._lock:
            data = self._out.read()
        if data:
            self._raw.sendall(data)

    def _flush_if_free(self) -> None:
        """Called by the reader: send pending records (answers to key updates). If the writer is busy, the writer sends
        them."""
        if self._out.pending and self._sending.acquire(blocking=False):
            try:
                self._flush()
            finally:
                self._sending.release()

    def _fill(self) -> bool:
        data = self._raw.recv(RECEIVE)
        if not data:
            self._in.write_eof()
            return False
        with self._lock:
            self._in.write(data)
        return True

    def recv(self, size: int, /) -> bytes:
        while True:
            with self._lock:
                if self._ready:
                    data, self._ready = self._ready[:size], self._ready[size:]
                    return data
                try:
                    return self._tls.read(size)
                except ssl.SSLWantReadError:
                    pass
                except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                    return b""
                except ssl.SSLError as error:
                    raise ConnectionResetError(_told(error)) from None
            self._flush_if_free()
            self._fill()

    def recv_into(self, buffer: memoryview, /) -> int:
        data = self.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def sendall(self, data: bytes | memoryview, /) -> None:
        view = memoryview(data)
        with self._sending:
            while view:
                with self._lock:
                    sent = self._tls.write(view[:RECEIVE])
                self._flush()
                view = view[sent:]

    def shutdown(self, how: int, /) -> None:
        """SHUT_WR sends close_notify, and reading continues. Any other value shuts down the socket."""
        if how != socket.SHUT_WR:
            self._raw.shutdown(how)
            return
        with self._sending:
            with self._lock:
                self._drain()
                try:
                    self._tls.unwrap()
                except ssl.SSLError:
                    pass  # this side's close_notify is buffered; the peer's close_notify comes after its output
            self._flush()

    def _drain(self) -> None:
        """Decrypt all received data. This is needed because unwrap() looks for the peer's close_notify and discards data
        before it."""
        try:
            while data := self._tls.read(RECEIVE):
                self._ready += data
        except ssl.SSLError:
            pass  # no more data at the moment, or EOF; recv() finds out which

    def settimeout(self, seconds: float | None, /) -> None:
        self._raw.settimeout(seconds)

    def fileno(self) -> int:
        return self._raw.fileno()

    def close(self) -> None:
        self._raw.close()
