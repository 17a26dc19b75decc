"""Who is at the other end of a connection: the kernel's word on a unix socket, the certificate's on TLS."""

from __future__ import annotations

import socket
import ssl
import struct

import trio

from orlop_kernel.http.messages import Peer

__all__ = ["identify"]

_UCRED = struct.Struct("3i")
_HANDSHAKE_TIMEOUT = 30.0
_NOT_TLS = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"  # clients look for this


async def identify(stream: trio.abc.Stream) -> Peer:
    """The peer of a unix, TCP or TLS stream. Does the handshake on TLS; raises trio.BrokenResourceError when it fails."""
    if isinstance(stream, trio.SSLStream):
        return await _tls_peer(stream)
    assert isinstance(stream, trio.SocketStream)
    sock = stream.socket
    if sock.family == socket.AF_UNIX:
        pid, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        return Peer("unix", pid=pid, uid=uid, gid=gid)
    # A client that lost its power must not keep `logs -f` running for ever
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
            if isinstance(cause, ssl.SSLError) and cause.reason == "HTTP_REQUEST":
                await tcp.send_all(_NOT_TLS)
            raise
    if scope.cancelled_caught:
        raise trio.BrokenResourceError("no TLS handshake in time")
    certificate = stream.getpeercert() or {}
    return Peer("tls", address=peer.address, subject=_subject(certificate))


def _subject(certificate: dict[str, object]) -> str:
    """ "CN=anna,O=crew": the subject's attributes in order of the certificate, short names where there are any."""
    short = {"commonName": "CN", "organizationName": "O", "organizationalUnitName": "OU", "countryName": "C"}
    names: list[str] = []
    subject = certificate.get("subject", ())
    assert isinstance(subject, tuple)
    for relative in subject:
        names += [f"{short.get(key, key)}={value}" for key, value in relative]
    return ",".join(names)
