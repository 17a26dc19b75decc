"""The guard's keys of daemon.json, and the checks of entries of `listeners`.

The kernel opens the sockets, so the struct of an entry is `orlop_kernel.config.Listener`. A new member that grants rights
must also be added to `ListenerPolicy.of` and `orlop_kernel.boot.tls._rights`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import ClassVar

from orlop_kernel.config import Config, Keys, Listener, Problem
from orlop_kernel.config.flags import LIST, flag
from orlop_sdk import Register, hookimpl
from orlop_sdk.base import ConfigBase
from orlop_sdk.sizes import parse_size_decimal

__all__ = ["ROLES", "AccessKeys", "AuditLog"]

ROLES = ("read-only", "no-exec", "full")

_PLUGIN = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_IMAGE_NAMES = re.compile(r"[a-zA-Z0-9*?._/:-]+")  # characters of image names, and wildcards, but no character classes
# These names are no valid labels, because events have attributes with these names in addition to an object's labels.
_NO_LABELS = frozenset(
    {"container", "driver", "execDuration", "execID", "exitCode", "id", "image", "name", "reclaimed", "signal", "type"}
)


class AuditLog(ConfigBase, frozen=True, kw_only=True, omit_defaults=True):
    """The audit log, in JSON lines. `required`: a change that cannot be logged is refused."""

    path: str
    max_size: str = "100m"
    max_file: int = 5
    required: bool = False


class AccessKeys(Keys, frozen=True, kw_only=True):
    audit_log: AuditLog | None = None
    authorization_plugins: tuple[str, ...] = ()

    FLAGS: ClassVar = (
        flag(
            "authorization-plugin",
            LIST,
            "Authorization plugin, which allows or refuses requests; repeat the flag for several, in order of use",
            key="authorization-plugins",
        ),
    )
    HELP: ClassVar = {
        "audit-log": "Log of all requests and their clients: path, max-size, max-file, required",
    }
    RELOADABLE: ClassVar = frozenset({"authorization-plugins"})

    def problems(self, config: Config) -> Iterator[Problem]:
        """See Keys."""
        yield from _listeners(config)
        if self.audit_log:
            yield from (Problem(text, ("audit-log",)) for text in _audit_log(self.audit_log))
        for name in self.authorization_plugins:
            if not _PLUGIN.fullmatch(name):
                text = f'invalid authorization plugin "{name}": a plugin\'s name is needed'
                yield Problem(text, ("authorization-plugins",))


@hookimpl
def orlop_keys(register: Register) -> None:
    register("listeners", AccessKeys)


def _place(listener: Listener, config: Config) -> Iterator[str]:
    scheme, separator, rest = listener.host.partition("://")
    if not separator or scheme not in ("unix", "tcp"):
        yield "its host must be unix://PATH or tcp://HOST:PORT"
    elif scheme == "unix":
        if not os.path.isabs(rest):
            yield "an absolute path is needed"
        if listener.tlscacert:
            yield "tlscacert is only for tcp hosts"
    elif scheme == "tcp":
        host, colon, port = rest.rpartition(":")
        if not (host and colon and port.isdigit() and 0 < int(port) < 65536):
            yield "its host must be tcp://HOST:PORT"
        if not config.verifies_clients:
            yield "a tcp host needs client certificates: set tlsverify"
        for key in ("owner", "group", "mode"):
            if getattr(listener, key):
                yield f"{key} is only for unix sockets"


def _rights(listener: Listener) -> Iterator[str]:
    if listener.role not in ROLES:
        yield f'unknown role "{listener.role}" ({", ".join(ROLES)})'
    if listener.mode and not re.fullmatch(r"0?[0-7]{3}", listener.mode):
        yield f'mode "{listener.mode}" is not octal, as in "0660"'
    elif listener.mode and int(listener.mode, 8) & 0o002 and listener.role == "full" and not listener.labels:
        yield f'mode "{listener.mode}" with role full: every user of this machine could become root'
    for label in listener.labels:
        key = label.partition("=")[0]
        if not key:
            yield f'label "{label}" has no name'
        elif key in _NO_LABELS:
            yield f'label "{key}" has the name of an attribute of events: use com.example.{key}'
    if len({label.partition("=")[0] for label in listener.labels}) < len(listener.labels):
        yield "one label is listed twice"
    if listener.shared_images and not listener.labels:
        yield "shared-images is only for listeners with labels"
    if listener.image_names and (listener.role == "read-only" or (listener.role == "full" and not listener.labels)):
        yield f"image-names is not for role {listener.role}{'' if listener.role == 'read-only' else ' without labels'}"
    for pattern in listener.image_names:
        if not _IMAGE_NAMES.fullmatch(pattern):
            yield f'image-names "{pattern}" is not a pattern of image names, as in "registry.example.com/ci/*"'


def _listeners(config: Config) -> Iterator[Problem]:
    seen = set(config.effective_hosts)
    for listener in config.listeners:
        wrong = [*_place(listener, config), *_rights(listener)]
        if listener.host in seen:
            wrong.append("another listener or one of hosts has this address")
        seen.add(listener.host)
        for text in wrong:
            yield Problem(f"invalid listener ({listener.host or 'without a host'}): {text}", ("listeners",))


def _audit_log(audit: AuditLog) -> Iterator[str]:
    if not os.path.isabs(audit.path):
        yield f'invalid audit-log path "{audit.path}": an absolute path is needed'
    if not 1 <= audit.max_file <= 1000:
        yield f"invalid audit-log max-file: {audit.max_file} (1 to 1000)"
    try:
        if parse_size_decimal(audit.max_size) < 4096:
            yield f'invalid audit-log max-size "{audit.max_size}": at least 4k'
    except ValueError as error:
        yield f'invalid audit-log max-size "{audit.max_size}": {error}'
