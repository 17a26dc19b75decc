"""From `hosts` to listening sockets: who may reach the daemon.

A unix socket belongs to root and the group of the configuration. TCP without TLS answers on loopback only: whoever reaches
the API is root on this machine. With TLS, clients show a certificate of `tlscacert`, always.
"""

from __future__ import annotations

import grp
import logging
import os
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import trio

from orlop_kernel.config import Config, ConfigError
from orlop_kernel.config.model import DEFAULT_HOST
from orlop_kernel.http.listeners import inherited_listener, open_tcp_listeners, open_tls_listeners, open_unix_listener

__all__ = ["Listeners", "close_unused", "opened", "split_tcp", "tls_context"]

_log = logging.getLogger("orlop.daemon")
Listeners = list[trio.abc.Listener[Any]]


def _group(name: str) -> int | None:
    """The gid of the socket's group; None when the default group does not exist: then it is root's alone."""
    if name.isdigit():
        return int(name)
    if not name:
        return None
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        if name != Config().group:
            raise ConfigError(f"cannot make the socket: group {name} not found") from None
        _log.warning('could not change group of the socket to docker: there is no group "docker"; only root can use it')
        return None


def _open_unix(path: str, config: Config) -> trio.abc.Listener[Any]:
    gid = _group(config.group)
    try:
        return open_unix_listener(path, 0o600 if gid is None else 0o660, gid)
    except OSError as error:
        raise ConfigError(f"cannot listen on unix://{path}: {error.strerror}") from error


def split_tcp(text: str, tls: bool) -> tuple[str, int]:
    """Host and port of `host:port`, dockerd's defaults where one is missing."""
    host, colon, port = text.rpartition(":")
    if not colon or "]" in port:
        host, port = text, ""
    return host.strip("[]") or "localhost", int(port or (2376 if tls else 2375))


def _is_loopback(host: str) -> bool:
    """By name or number only: what a resolver says may change after we asked it."""
    return host in ("localhost", "::1") or (host.startswith("127.") and host.replace(".", "").isdigit())


def tls_context(config: Config) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(config.tlscert, config.tlskey)
        context.load_verify_locations(config.tlscacert)
    except (OSError, ssl.SSLError) as error:
        files = f"{config.tlscert}, {config.tlskey}, {config.tlscacert}"
        raise ConfigError(f"invalid TLS configuration: cannot load {files}: {error}") from error
    return context


async def _open_tcp(text: str, config: Config) -> Listeners:
    host, port = split_tcp(text, config.uses_tls)
    if not config.uses_tls and not _is_loopback(host):
        raise ConfigError(
            f"cannot listen on tcp://{text}: without TLS, whoever reaches this address is root on this machine; "
            "use --tlsverify with --tlscacert, --tlscert and --tlskey, or listen on 127.0.0.1"
        )
    context = tls_context(config) if config.uses_tls else None
    try:
        listeners = await open_tcp_listeners(host, port)
    except OSError as error:
        raise ConfigError(f"cannot listen on tcp://{text}: {error.strerror or error}") from error
    if context:
        return list(open_tls_listeners(listeners, context))
    _log.warning("tcp://%s has no TLS: every user and program of this machine can use it to become root", text)
    return list(listeners)


def _take(rest: str, inherited: Mapping[int, str]) -> Listeners:
    """`fd://` is all sockets that systemd opened, `fd://3` or `fd://name` those."""
    if not inherited:
        raise ConfigError(f"cannot listen on fd://{rest}: no sockets were passed by systemd (LISTEN_FDS is not set for us)")
    fds = [fd for fd, name in inherited.items() if rest in ("", name, str(fd))]
    if not fds:
        have = ", ".join(f"{fd} ({name})" if name else str(fd) for fd, name in inherited.items())
        raise ConfigError(f"cannot listen on fd://{rest}: systemd passed {have}")
    try:
        return [inherited_listener(fd) for fd in fds]
    except OSError as error:
        raise ConfigError(f"cannot listen on fd://{rest}: {error.strerror or error}") from error


@asynccontextmanager
async def opened(config: Config, inherited: Mapping[int, str]) -> AsyncIterator[Listeners]:
    """Listen on every host of the configuration, or on none of them. Closed in the end, if nobody did so before."""
    async with AsyncExitStack() as undo:
        listeners: Listeners = []
        for host in config.effective_hosts:
            scheme, separator, rest = host.partition("://")
            if scheme == "unix" and separator:
                opened: Listeners = [_open_unix(rest or DEFAULT_HOST.removeprefix("unix://"), config)]
            elif scheme == "fd" and separator:
                opened = _take(rest, inherited)
            else:
                opened = await _open_tcp(rest if separator else host, config)
            for listener in opened:
                undo.push_async_callback(listener.aclose)
            listeners += opened
            _log.info("listening on %s", host)
        yield listeners


def close_unused(inherited: Mapping[int, str], config: Config) -> None:
    """Sockets that systemd passed and no host names."""
    if not any(host.startswith("fd://") for host in config.effective_hosts):
        for fd in inherited:
            os.close(fd)
