"""Identifies the peer of a connection: by SO_PEERCRED on a unix socket, by the certificate on TLS."""

from __future__ import annotations

import socket
import ssl

import trio

from orlop_kernel.http.messages import Peer
from orlop_sdk import linux

__all__ = ["identify"]

_HANDSHAKE_TIMEOUT = 30.0
_LAST_WORD = 1.0
_NOT_TLS = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"  # clients match on this text


async def identify(stream: trio.abc.Stream) -> Peer:
    """The peer of a unix, TCP or TLS stream. Does the TLS handshake; raises trio.BrokenResourceError when it fails."""
    if isinstance(stream, trio.SSLStream):
        return await _tls_peer(stream)
    assert isinstance(stream, trio.SocketStream)
    sock = stream.socket
    if sock.family == socket.AF_UNIX:
        pid, uid, gid = linux.peer_credentials(sock)  # type: ignore[arg-type]
        return Peer("unix", pid=pid, uid=uid, gid=gid)
    # A client that lost power must not keep `logs -f` running for ever
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return Peer("tcp", address=_address(sock.getpeername()))


def _address(name: tuple[str, int]) -> str:
    host, port = name[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _tls_peer(stream: trio.SSLStream[trio.SocketStream]) -> Peer:
    tcp = stream.transport_stream
    peer = await identify(tcp)
    with trio.move_on_after(_HANDSHAKE_TIMEOUT) as scope:
        try:
            await stream.do_handshake()
        except trio.BrokenResourceError as error:
            cause = error.__cause__
            if isinstance(cause, ssl.SSLError):
                await _send_refusal(stream, _NOT_TLS if cause.reason == "HTTP_REQUEST" else b"")
            raise
    if scope.cancelled_caught:
        raise trio.BrokenResourceError("no TLS handshake in time")
    names = _names(stream.getpeercert() or {})
    return Peer(
        "tls",
        address=peer.address,
        subject=",".join(f"{_SHORT.get(key, key)}={value}" for key, value in names),
        common_name=next((value for key, value in names if key == "commonName"), ""),
        certificate=stream.getpeercert(binary_form=True) or b"",
    )


async def _send_refusal(stream: trio.SSLStream[trio.SocketStream], answer: bytes) -> None:
    """Send `answer` to the refused client; if `answer` is empty, send OpenSSL's alert for the failure (RFC 8446 section
    6.2). trio does not send the alert, and without an alert the client only sees an EOF. Then drain the input: a close with
    unread input resets the connection, and the reset can overtake the alert."""
    tcp, kept = stream.transport_stream, getattr(stream, "_outgoing", None)
    with trio.move_on_after(_LAST_WORD):
        await tcp.send_all(answer or (kept.read() if kept else b""))
        await tcp.send_eof()
        while await tcp.receive_some():
            pass


_SHORT = {"commonName": "CN", "organizationName": "O", "organizationalUnitName": "OU", "countryName": "C"}


def _names(certificate: dict[str, object]) -> list[tuple[str, str]]:
    """The attributes of the certificate's subject, in their order."""
    subject = certificate.get("subject", ())
    assert isinstance(subject, tuple)
    return [name for relative in subject for name in relative]
