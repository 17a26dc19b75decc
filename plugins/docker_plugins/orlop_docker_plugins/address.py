"""The address of a plugin, from Docker's directories of sockets, `.spec` files and `.json` files (moby pkg/plugins,
discovery.go)."""

from __future__ import annotations

import os
import re
import ssl
import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec

from orlop_sdk import DriverError

__all__ = ["SOCKETS", "SPECS", "Address", "find"]

SOCKETS = "/run/docker/plugins"
SPECS = ("/etc/docker/plugins", "/usr/lib/docker/plugins")

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")
_LIMIT = 1 << 20  # bytes that are read of a file


class Address(NamedTuple):
    """`text` is for messages. `unix` is the path of a socket; if it is "", `host` and `port` are used. `context` is set for
    TLS."""

    text: str
    unix: str = ""
    host: str = ""
    port: int = 0
    context: ssl.SSLContext | None = None


class _TLS(msgspec.Struct, rename={"insecure": "InsecureSkipVerify", "ca": "CAFile", "cert": "CertFile", "key": "KeyFile"}):
    insecure: bool = False
    ca: str = ""
    cert: str = ""
    key: str = ""


class _Spec(msgspec.Struct, rename={"address": "Addr", "tls": "TLSConfig"}):
    address: str = ""
    tls: _TLS | None = None


def _places(name: str, sockets: str, specs: tuple[str, ...]) -> Iterator[str]:
    """The possible files, in Docker's order."""
    for directory, suffixes in ((sockets, (".sock",)), *((each, (".spec", ".json")) for each in specs)):
        for suffix in suffixes:
            yield os.path.join(directory, name + suffix)
            yield os.path.join(directory, name, name + suffix)


def find(name: str, looked: Callable[[str], None], sockets: str = SOCKETS, specs: tuple[str, ...] = SPECS) -> Address | None:
    """None if no file has the name, or if the name is not a file name. Raises `DriverError` for a file that cannot be
    read."""
    if not _NAME.fullmatch(name) or ".." in name:
        return None
    for path in _places(name, sockets, specs):
        if path.endswith(".sock"):
            if _is_socket(path):
                return Address(f"unix://{path}", path)
        elif os.path.isfile(path):
            return _read(name, path)
    looked(f"{sockets}/{name}.sock")
    for directory in specs:
        looked(f"{directory}/{name}.spec or .json")
    return None


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def _read(name: str, path: str) -> Address:
    try:
        with open(path, "rb") as file:
            data = file.read(_LIMIT)
        return _address(msgspec.json.decode(data, type=_Spec) if path.endswith(".json") else _Spec(data.decode().strip()))
    except OSError as error:
        raise DriverError(f'plugin "{name}": cannot use {error.filename or path}: {error.strerror}') from error
    except (ValueError, msgspec.MsgspecError) as error:
        raise DriverError(f'plugin "{name}": cannot use {path}: {error}') from error


def _address(spec: _Spec) -> Address:
    scheme, separator, rest = spec.address.partition("://")
    if scheme == "unix" and os.path.isabs(rest):
        return Address(spec.address, rest)
    host, colon, port = rest.rstrip("/").rpartition(":")
    if not separator or scheme not in ("tcp", "http", "https") or not (colon and host and port.isdigit()):
        raise ValueError(f'the address "{spec.address}" is neither unix:///PATH nor tcp://HOST:PORT')
    context = _context(spec.tls) if spec.tls else ssl.create_default_context() if scheme == "https" else None
    return Address(spec.address, "", host.strip("[]"), int(port), context)


def _context(tls: _TLS) -> ssl.SSLContext:
    """As in Docker, the plugin's certificate is not verified if `TLSConfig` has no CA, or switches verification off."""
    context = ssl.create_default_context(cafile=tls.ca or None)
    if tls.insecure or not tls.ca:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.cert:
        context.load_cert_chain(tls.cert, tls.key or None)
    return context
