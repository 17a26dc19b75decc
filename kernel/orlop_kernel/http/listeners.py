"""Listening sockets: unix sockets, TCP sockets, and sockets that systemd opened.

A unix socket first gets its owner and mode and starts to listen, and then gets its final name. So no client sees a socket
with the wrong mode, or a socket that does not listen. After a crash the socket file remains. If no process answers on it,
the next daemon replaces it.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import stat

import trio

__all__ = ["TlsListener", "UnixListener", "inherited_listener", "open_tcp_listeners", "open_unix_listener"]

_BACKLOG = 1024
# dockerd's values: if a client's machine is gone, this is detected after 2.5 minutes, even on a silent stream.
_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 9),
)


class UnixListener(trio.abc.Listener[trio.SocketStream]):
    """A listening unix socket that removes its name on close, unless another socket has got this name."""

    def __init__(self, sock: socket.socket, path: str) -> None:
        self.path = path
        self._listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
        self._identity = _identity(path)

    async def accept(self) -> trio.SocketStream:
        """See trio.abc.Listener."""
        return await self._listener.accept()

    async def aclose(self) -> None:
        """See trio.abc.Listener. The name is removed first, so that clients cannot find a socket that does not answer."""
        if self._identity and _identity(self.path) == self._identity:
            os.unlink(self.path)
        self._identity = None
        await self._listener.aclose()


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _refuse_living(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "this path is a file that is not a socket", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return  # no daemon listens on this socket any more
    raise OSError(errno.EADDRINUSE, "another daemon is listening", path)


def open_unix_listener(path: str, mode: int = 0o660, gid: int | None = None, uid: int | None = None) -> UnixListener:
    """Listen at `path` with this mode, group and owner; missing directories are created. A stale socket is replaced. Raises
    OSError: EADDRINUSE when another daemon answers there, EEXIST when the path is not a socket."""
    directory, name = os.path.split(os.path.abspath(path))
    os.makedirs(directory, 0o755, exist_ok=True)
    _refuse_living(path)
    temporary = os.path.join(directory, f".{name}.{os.getpid()}")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        try:
            os.unlink(temporary)
        except FileNotFoundError:
            pass
        sock.bind(temporary)
        try:
            if gid is not None or uid is not None:
                os.chown(temporary, -1 if uid is None else uid, -1 if gid is None else gid)
            os.chmod(temporary, mode)
            sock.listen(_BACKLOG)
            os.rename(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
        return UnixListener(sock, path)
    except BaseException:
        sock.close()
        raise


async def open_tcp_listeners(host: str, port: int) -> list[trio.SocketListener]:
    """Listen at all addresses of `host`; "" is every address of this machine. Raises OSError."""
    listeners = list(await trio.open_tcp_listeners(port, host=host or None, backlog=_BACKLOG))
    for listener in listeners:
        for level, option, value in _KEEPALIVE:
            listener.socket.setsockopt(level, option, value)  # accepted sockets inherit the option
    return listeners


class TlsListener(trio.abc.Listener["trio.SSLStream[trio.SocketStream]"]):
    """Speaks TLS on the connections of another listener. `context` is the TLS context: the certificate, and whether clients
    must present one. A new `context` applies to later connections. `identify` does the handshake."""

    def __init__(self, listener: trio.abc.Listener[trio.SocketStream], context: ssl.SSLContext) -> None:
        self._listener = listener
        self.context = context

    async def accept(self) -> trio.SSLStream[trio.SocketStream]:
        """See trio.abc.Listener."""
        stream = await self._listener.accept()
        return trio.SSLStream(stream, self.context, server_side=True, https_compatible=True)

    async def aclose(self) -> None:
        """See trio.abc.Listener."""
        await self._listener.aclose()


def inherited_listener(fd: int) -> trio.SocketListener:
    """A socket that already listens, from systemd (fd 3 and up) or a test. Takes ownership of the fd but never removes the
    socket's name. Raises OSError when it is no listening stream socket."""
    sock = socket.socket(fileno=fd)
    try:
        if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise OSError(errno.EINVAL, f"fd {fd} is not a listening stream socket")
        sock.setblocking(False)
        return trio.SocketListener(trio.socket.from_stdlib_socket(sock))
    except BaseException:
        sock.detach()
        raise
