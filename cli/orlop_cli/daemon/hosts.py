"""The daemon's address, connecting to it, and advice if the connection fails."""

from __future__ import annotations

import _socket  # not `socket`, because it imports enum and selectors, which takes 5 ms
import os

from orlop_cli._errors import CannotConnect, CliError

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    import socket

    from orlop_cli.daemon.http import Stream


DEFAULT_HOST = "unix:///run/orlop.sock"
CONNECT_TIMEOUT = 20.0


class Tls:
    """TLS settings of flags and environment; file names, or None."""

    __slots__ = ("ca", "cert", "key", "verify")

    def __init__(self, verify: bool, ca: str | None, cert: str | None, key: str | None) -> None:
        self.verify, self.ca, self.cert, self.key = verify, ca, cert, key


class Address:
    """A parsed `-H` value: a path for unix sockets, host and port for TCP. For `ssh` it also contains the user, and the path
    of the daemon's socket on that machine. Port 0 means ssh's default."""

    __slots__ = ("host", "path", "port", "ssh", "text", "user")

    def __init__(self, text: str, path: str, host: str, port: int, ssh: bool = False, user: str = "") -> None:
        self.text, self.path, self.host, self.port, self.ssh, self.user = text, path, host, port, ssh, user


def parse(text: str, tls: bool) -> Address:
    """Parse `unix://PATH` or `tcp://HOST[:PORT]` (also a bare HOST:PORT); the default ports are Docker's 2375 and 2376."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        path = os.path.expanduser(text.removeprefix("unix:"))
        if path.startswith(("/", "./", "../")):
            raise CliError(f'unable to parse daemon host "{text}": did you mean unix://{os.path.abspath(path)}?')
        scheme, rest = "tcp", text
    if scheme == "unix":
        return Address(text, rest or DEFAULT_HOST.partition("://")[2], "", 0)
    if scheme == "ssh":
        return _parse_ssh(text, rest)
    if scheme not in ("tcp", "http", "https"):
        raise CliError(f'unable to parse daemon host "{text}": use unix://PATH, tcp://HOST:PORT or ssh://USER@HOST')
    authority = rest.split("/", 1)[0]
    host, colon, port = authority.rpartition(":")
    if not colon or authority.endswith("]"):
        host, port = authority, "2376" if tls else "2375"
    if not (port.isascii() and port.isdecimal() and len(port) < 6 and int(port) < 65536):
        raise CliError(f'unable to parse daemon host "{text}": invalid port "{port}"')
    return Address(f"tcp://{authority}" if not separator else text, "", host.strip("[]") or "127.0.0.1", int(port))


def _parse_ssh(text: str, rest: str) -> Address:
    authority, slash, path = rest.partition("/")
    user, _, place = authority.rpartition("@")
    host, colon, port = place.rpartition(":")
    if not colon or place.endswith("]"):
        host, port = place, "0"
    if ":" in user:
        raise CliError(f'unable to parse daemon host "{text}": plain-text password is not supported')
    if not host or host.startswith("-") or user.startswith("-") or not (port.isascii() and port.isdecimal()):
        raise CliError(f'unable to parse daemon host "{text}": use ssh://USER@HOST[:PORT]')
    return Address(text, slash + path if path else "", host.strip("[]"), int(port), True, user)


def connect(address: Address, tls: Tls | None) -> Stream:
    """Connect, or raise CannotConnect with a message that says how to fix it."""
    if address.ssh:
        from orlop_cli.daemon.ssh import SshStream

        return SshStream(address)
    try:
        if address.path:
            return _unix(address.path)
        raw = _tcp(address)
    except (OSError, UnicodeError) as error:  # a UnicodeError means that the name is invalid in IDNA
        denied = address.path and isinstance(error, PermissionError)  # over TCP, a PermissionError means a firewall
        raise CannotConnect(_denied(address) if denied else _unreachable(address, error)) from None
    stream = raw if tls is None else _secured(raw, address, tls)
    raw.settimeout(None)  # after the connection is made, the daemon may send nothing for any time
    return stream


def _tcp(address: Address) -> socket.socket:
    import socket

    stream = socket.create_connection((address.host, address.port), CONNECT_TIMEOUT)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return stream


def _unix(path: str) -> Stream:
    stream = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        stream.connect(path)
    except OSError:
        stream.close()
        raise
    return stream


def _secured(raw: socket.socket, address: Address, tls: Tls) -> Stream:
    import ssl

    from orlop_cli.daemon.tls import TlsStream, context

    try:
        return TlsStream(raw, context(tls.ca, tls.cert, tls.key, tls.verify), address.host)
    except FileNotFoundError as error:
        raw.close()
        named = ", ".join(name for name in (tls.ca, tls.cert, tls.key) if name and not os.path.exists(name))
        raise CliError(f"cannot read TLS file {named}: {error.strerror}") from None
    except (ssl.SSLError, OSError) as error:
        raw.close()
        reason = getattr(error, "verify_message", "") or getattr(error, "reason", "") or str(error)
        raise CannotConnect(f"cannot set up TLS with {address.text}: {reason}") from None


def _unreachable(address: Address, error: OSError | UnicodeError) -> str:
    cause = (getattr(error, "strerror", None) or str(error)).lower()
    message = f"Cannot connect to the Orlop daemon at {address.text}. Is the daemon running?\n({cause})"
    if address.text == DEFAULT_HOST:
        message += (
            "\nStart it with `systemctl start orlop` or `sudo orlopd`, or select another daemon with -H or ORLOP_HOST."
        )
    return message


def _denied(address: Address) -> str:
    """Docker's message, and the users who may use the socket."""
    message = f"permission denied while trying to connect to the Orlop daemon socket at {address.text}"
    try:
        status = os.stat(address.path)
    except OSError:
        return f"{message}\nYou have no access to the socket's directory: ask the administrator of this machine."
    import grp
    import pwd

    try:
        owner, group = pwd.getpwuid(status.st_uid).pw_name, grp.getgrgid(status.st_gid).gr_name
    except KeyError:
        return f"{message}\nIt belongs to uid {status.st_uid}, gid {status.st_gid}."
    if not status.st_mode & 0o020 or group == "root":
        return f"{message}\nIt belongs to {owner}:{group}, and only {owner} may use it: run the command with sudo."
    user = pwd.getpwuid(os.getuid()).pw_name if os.getuid() else "$USER"
    if user in grp.getgrgid(status.st_gid).gr_mem:
        return f'{message}\nYou joined group "{group}" after your last login: log out and in again, or run `newgrp {group}`.'
    return (
        f'{message}\nIt belongs to {owner}:{group}. To use it, join the group "{group}" and log in again:\n'
        f"  sudo usermod -aG {group} $USER\n"
        f"Members of that group can become root on this machine."
    )
