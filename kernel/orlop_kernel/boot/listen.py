"""Opens the listening sockets of `hosts` and `listeners`.

A unix socket belongs to root and to the configured group. `exposure` checks TCP addresses, and `tls` checks the TLS files.
"""

from __future__ import annotations

import grp
import logging
import os
import pwd
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import trio

from orlop_kernel.config import Config, ConfigError, Listener
from orlop_kernel.config.model import DEFAULT_HOST
from orlop_kernel.http.listeners import TlsListener, inherited_listener, open_tcp_listeners, open_unix_listener

from . import exposure, tls

__all__ = ["Listeners", "any_tls", "check", "check_owners", "close_unused", "opened", "opened_entries", "renew"]

_log = logging.getLogger("orlop.daemon")
Listeners = list[trio.abc.Listener[Any]]


def _group(name: str) -> int | None:
    """The gid of the socket's group. None if the default group does not exist; only root can then use the socket."""
    if name.isdigit():
        return int(name)
    if not name:
        return None
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        if name != Config().group:
            raise ConfigError(f"cannot make the socket: group {name} not found") from None
        _log.warning("could not change group of the socket to docker: there is no such group; only root can use the socket")
        return None


def _open_unix(path: str, config: Config) -> trio.abc.Listener[Any]:
    gid = _group(config.group)
    try:
        return open_unix_listener(path, 0o600 if gid is None else 0o660, gid)
    except OSError as error:
        raise ConfigError(f"cannot listen on unix://{path}: {error.strerror}") from error


async def _open_tcp(url: str, config: Config, context: ssl.SSLContext | None) -> Listeners:
    host, port = exposure.split_tcp(url.removeprefix("tcp://"), config.uses_tls)
    exposure.check(url, host, config)
    try:
        listeners = await open_tcp_listeners(host, port)
    except OSError as error:
        raise ConfigError(f"cannot listen on {url}: {error.strerror or error}") from error
    return [TlsListener(listener, context) for listener in listeners] if context else list(listeners)


def _adopt_inherited(rest: str, inherited: Mapping[int, str], config: Config, context: ssl.SSLContext | None) -> Listeners:
    """`fd://` means all sockets that systemd opened; `fd://3` or `fd://name` means the socket with this number or name. TCP
    sockets of systemd are checked like configured TCP addresses."""
    if not inherited:
        raise ConfigError(
            f"cannot listen on fd://{rest}: systemd passed no sockets (LISTEN_FDS is not set for this process)"
        )
    fds = [fd for fd, name in inherited.items() if rest in ("", name, str(fd))]
    if not fds:
        have = ", ".join(f"{fd} ({name})" if name else str(fd) for fd, name in inherited.items())
        raise ConfigError(f"cannot listen on fd://{rest}: systemd passed only {have}")
    try:
        listeners = [inherited_listener(fd) for fd in fds]
    except OSError as error:
        raise ConfigError(f"cannot listen on fd://{rest}: {error.strerror or error}") from error
    try:
        return [_guarded(listener, config, context) for listener in listeners]
    except ConfigError:
        for listener in listeners:
            listener.socket.close()
        raise


def _guarded(
    listener: trio.SocketListener, config: Config, context: ssl.SSLContext | None
) -> trio.SocketListener | TlsListener:
    if listener.socket.family == socket.AF_UNIX:
        return listener
    host, port = listener.socket.getsockname()[:2]
    exposure.check(f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}", host, config)
    return TlsListener(listener, context) if context else listener


@asynccontextmanager
async def opened(config: Config, inherited: Mapping[int, str]) -> AsyncIterator[Listeners]:
    """Listen on every entry of `hosts`. If one entry fails, close all. On exit, close the listeners that are still open."""
    async with AsyncExitStack() as undo:
        context = tls.server_context(config) if config.uses_tls else None
        listeners: Listeners = []
        for host in config.effective_hosts:
            scheme, separator, rest = host.partition("://")
            if scheme == "unix" and separator:
                opened: Listeners = [_open_unix(rest or DEFAULT_HOST.removeprefix("unix://"), config)]
            elif scheme == "fd" and separator:
                opened = _adopt_inherited(rest, inherited, config, context)
            else:
                opened = await _open_tcp(host, config, context)
            for listener in opened:
                undo.push_async_callback(listener.aclose)
            listeners += opened
            _log.info("listening on %s", host)
        yield listeners


def _user(name: str) -> int | None:
    if not name or name.isdigit():
        return int(name) if name else None
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise ConfigError(f"cannot make the socket: user {name} not found") from None


def _open_entry(path: str, entry: Listener) -> trio.abc.Listener[Any]:
    """Open the socket of an entry. Without `owner`, `group` and `mode`, only root may connect."""
    try:
        uid, gid = _user(entry.owner), _group(entry.group)
        mode = int(entry.mode, 8) if entry.mode else 0o660 if gid is not None else 0o600
        return open_unix_listener(path, mode, gid, uid)
    except OSError as error:
        raise ConfigError(f"cannot listen on {entry.host}: {error.strerror}") from error
    except ConfigError as error:
        raise ConfigError(f"cannot listen on {entry.host}: {error}") from error


@asynccontextmanager
async def opened_entries(config: Config, hosts: Listeners) -> AsyncIterator[list[tuple[Listener, Listeners]]]:
    """Open the sockets of `listeners`; yield each with its entry. If one fails, close all. `hosts` is the
    result of `opened`."""
    async with AsyncExitStack() as undo:
        found: list[tuple[Listener, Listeners]] = []
        by_tcp = any(entry.host.startswith("tcp:") for entry in config.listeners)
        contexts = tls.contexts(config, any_tls(hosts)) if by_tcp else {}
        for entry in config.listeners:
            scheme, _, rest = entry.host.partition("://")
            if scheme == "unix":
                own: Listeners = [_open_entry(rest, entry)]
            else:
                own = await _open_tcp(entry.host, config, contexts[entry.tlscacert or config.tlscacert])
            for listener in own:
                undo.push_async_callback(listener.aclose)
            found.append((entry, own))
            _log.info("listening on %s (role %s)", entry.host, entry.role)
        yield found


def check(running: Config, wanted: Config) -> None:
    """Raise the ConfigError that a start with the new configuration (`wanted`) would raise. No socket is created. Settings
    that are the same in the `running` configuration are not checked again."""
    exposure.check_hosts(wanted)
    if wanted.uses_tls and not tls.same(running, wanted):
        tls.contexts(wanted, bool(exposure.by_tcp(wanted)))
    if wanted.group != running.group and any(host.startswith("unix://") for host in wanted.effective_hosts):
        _group(wanted.group)
    for entry in wanted.listeners:
        if entry not in running.listeners:
            _user(entry.owner)
            _group(entry.group)


def check_owners(config: Config) -> None:
    """Raise `ConfigError` when a socket's user or group does not exist."""
    if any(host.startswith("unix://") for host in config.effective_hosts):
        _group(config.group)
    for entry in config.listeners:
        _user(entry.owner)
        _group(entry.group)


def any_tls(listeners: Listeners) -> bool:
    return any(isinstance(listener, TlsListener) for listener in listeners)


def renew(listeners: Listeners, context: ssl.SSLContext | None) -> None:
    """Use this TLS context for new connections. Open connections keep the old TLS context."""
    for listener in listeners:
        if isinstance(listener, TlsListener) and context is not None:
            listener.context = context


def close_unused(inherited: Mapping[int, str], config: Config) -> None:
    """Close the sockets from systemd that no entry of `hosts` selects."""
    if not any(host.startswith("fd://") for host in config.effective_hosts):
        for fd in inherited:
            os.close(fd)
