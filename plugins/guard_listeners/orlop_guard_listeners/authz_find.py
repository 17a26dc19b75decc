"""Finds the address of an authorization plugin by name, in Docker's directories of sockets, `.spec` and `.json` files."""

from __future__ import annotations

import os
import ssl
import stat
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from orlop_engine.server_tls import client_context
from orlop_kernel.config import ConfigError

__all__ = ["SOCKETS", "SPECS", "Address", "find"]

SOCKETS = "/run/docker/plugins"
SPECS = ("/etc/docker/plugins", "/usr/lib/docker/plugins")


class Address(NamedTuple):
    """The address of a plugin. `unix` is the path of a socket; if it is "", `host` and `port` are used. `context` is set for
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


def _places(directory: str, name: str, suffix: str) -> Iterator[str]:
    yield os.path.join(directory, name + suffix)
    yield os.path.join(directory, name, name + suffix)


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def find(name: str, sockets: str | None = None, specs: tuple[str, ...] | None = None) -> Address:
    """Look in Docker's order: sockets, then files. Raises ConfigError."""
    for path in _places(sockets or SOCKETS, name, ".sock"):
        if _is_socket(path):
            return Address(f"unix://{path}", path)
    for directory in specs or SPECS:
        for suffix in (".spec", ".json"):
            for path in _places(directory, name, suffix):
                if os.path.exists(path):
                    return _read(name, path)
    places = ", ".join((sockets or SOCKETS, *(specs or SPECS)))
    raise ConfigError(f'authorization plugin "{name}" not found: there is no {name}.sock, .spec or .json in {places}')


def _read(name: str, path: str) -> Address:
    try:
        with open(path, "rb") as file:
            data = file.read(1 << 20)
        spec = msgspec.json.decode(data, type=_Spec) if path.endswith(".json") else _Spec(data.decode().strip())
        return _address(spec)
    except OSError as error:
        raise ConfigError(f'authorization plugin "{name}": cannot use {error.filename or path}: {error.strerror}') from error
    except (ValueError, msgspec.MsgspecError) as error:
        raise ConfigError(f'authorization plugin "{name}": cannot use {path}: {error}') from error


def _address(spec: _Spec) -> Address:
    scheme, separator, rest = spec.address.partition("://")
    rest = rest.rstrip("/") if scheme != "unix" else rest
    if scheme == "unix" and os.path.isabs(rest):
        return Address(spec.address, rest)
    host, colon, port = rest.rpartition(":")
    if not separator or scheme not in ("tcp", "http", "https") or not (colon and host and port.isdigit()):
        raise ValueError(f'the address "{spec.address}" is neither unix:///PATH nor tcp://HOST:PORT')
    context = _context(spec.tls or _TLS()) if spec.tls or scheme == "https" else None
    return Address(spec.address, "", host.strip("[]"), int(port), context)


def _context(tls: _TLS) -> ssl.SSLContext:
    """The TLS context. As in Docker, the plugin's certificate is not verified if there is no CA, or if verification is
    switched off."""
    context = client_context(verify=bool(tls.ca) and not tls.insecure, ca=tls.ca)
    if tls.cert:
        context.load_cert_chain(tls.cert, tls.key or None)
    return context
