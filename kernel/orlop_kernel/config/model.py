"""`Config`: the daemon's configuration as one frozen value. Field names are daemon.json's keys, with "_" for "-".

Its fields are the kernel's own keys; the keys of plugins are in `parts`. The names of bridges, cgroups and other objects
that the daemon creates on the host contain the `instance`, so that daemons with different data roots never share an object.
"""

from __future__ import annotations

import os
from binascii import crc32
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar, TypeVar

import msgspec

from orlop_sdk.base import ConfigBase

from .errors import Problem
from .flags import Flag
from .policy import RELOADABLE

__all__ = [
    "DEFAULT_DATA_ROOT",
    "DEFAULT_EXEC_ROOT",
    "DEFAULT_HOST",
    "DEFAULT_TLS_HOST",
    "Config",
    "Keys",
    "Listener",
]

DEFAULT_DATA_ROOT = "/var/lib/orlop"
DEFAULT_EXEC_ROOT = "/run/orlop"
DEFAULT_HOST = "unix:///run/orlop.sock"
DEFAULT_TLS_HOST = "tcp://localhost:2376"


class Listener(ConfigBase, frozen=True, kw_only=True, omit_defaults=True):
    """An entry of `listeners`: an additional socket, and the rights of its clients. `mode` is octal; the default is 0660
    with a `group`, and 0600 without. `labels`: only objects with all of these labels are visible. `tlscacert`: the CA of the
    listener's TCP clients; the default is the daemon's CA. `image_names`: patterns of the image names that the listener's
    clients may assign, move and remove.

    The guard decides what `role`, `labels` and the other rights mean. A new member that is a right must be in
    `boot.tls._rights` (a test compares the fields)."""

    host: str
    role: str
    labels: tuple[str, ...] = ()
    image_names: tuple[str, ...] = ()
    shared_images: bool = False
    show_env: bool = False
    tlscacert: str = ""
    owner: str = ""
    group: str = ""
    mode: str = ""


class Keys(ConfigBase, frozen=True, kw_only=True):
    """Base of a plugin's own keys of daemon.json: each field is a key, with "_" for "-", and has a default. The hook
    `orlop_keys` registers it under the name of the service, front end or guard. `FLAGS` are flags of orlopd that set these
    keys. `HELP` has a line for each key without a flag. `RELOADABLE` has the keys that a reload applies. A key of `REFUSED`
    is an error, unless it has its default value or `"enable": false`. A key of `IGNORED` only causes a warning. `REFUSED`
    and `IGNORED` map the key to the reason.

    `HINTS` maps names that people mistake for keys to advice. `OLDER` maps former names of keys to their present names. A
    key in `ZEROS` may be 0; for other keys, 0 means unset. A key in `BOTH` may be set by flags and in the file: the values
    are combined."""

    FLAGS: ClassVar[Sequence[Flag]] = ()
    HELP: ClassVar[Mapping[str, str]] = {}
    HINTS: ClassVar[Mapping[str, str]] = {}
    OLDER: ClassVar[Mapping[str, str]] = {}
    ZEROS: ClassVar[frozenset[str]] = frozenset()
    BOTH: ClassVar[frozenset[str]] = frozenset()
    RELOADABLE: ClassVar[frozenset[str]] = frozenset()
    REFUSED: ClassVar[Mapping[str, str]] = {}
    IGNORED: ClassVar[Mapping[str, str]] = {}

    def problems(self, config: Config) -> Iterable[Problem]:
        """What is wrong with these values. Reads no file and imports little, because every start calls it."""
        return ()

    @classmethod
    def complete(cls, values: dict[str, Any], environ: Mapping[str, str], directory: str) -> Iterable[tuple[str, str]]:
        """Complete raw values, which may have any type: add values from the environment, and make relative paths absolute
        (`directory` is their base). Returns each key that it adds, with the origin of the value."""
        return ()


def fields(keys: ConfigBase) -> Iterable[tuple[str, str]]:
    """Pairs of a key of daemon.json and the name of its field: ("data-root", "data_root")."""
    names = zip(keys.__struct_encode_fields__, keys.__struct_fields__, strict=True)
    return ((key, field) for key, field in names if key != "parts")


Part = TypeVar("Part", bound=Keys)


@lru_cache(maxsize=16)
def instance_of(data_root: str) -> str:
    """See `Config.instance`. Cached, because the start calls this for each container, and a call resolves two paths."""
    root = os.path.realpath(data_root)
    return "" if root == os.path.realpath(DEFAULT_DATA_ROOT) else f"{crc32(os.fsencode(root)):08x}"


class Config(ConfigBase, frozen=True, kw_only=True):
    """The merged configuration. Immutable: a reload makes a new `Config`. `parts` are the keys of plugins, by the plugin's
    name."""

    allow_insecure_tcp: bool = False
    data_root: str = DEFAULT_DATA_ROOT
    debug: bool = False
    exec_root: str = DEFAULT_EXEC_ROOT
    front_ends: tuple[str, ...] = ("docker", "check")
    group: str = "docker"
    guards: tuple[str, ...] = ("listeners",)
    hosts: tuple[str, ...] = ()
    listeners: tuple[Listener, ...] = ()
    log_format: str = "text"
    log_level: str = "info"
    pidfile: str = ""
    services: tuple[str, ...] = ("adopt", "engine", "build", "metrics")
    tls: bool = False
    tlscacert: str = ""
    tlscert: str = ""
    tlskey: str = ""
    tlsverify: bool | None = None
    parts: dict[str, Keys] = msgspec.field(default_factory=dict)

    def part(self, keys: type[Part]) -> Part:
        """The values of a plugin's keys. If the plugin is not selected, these are the defaults."""
        return next((each for each in self.parts.values() if isinstance(each, keys)), keys())

    def items(self) -> dict[str, object]:
        """The value of each key of the kernel and of the plugins."""
        return {key: getattr(each, field) for each in (self, *self.parts.values()) for key, field in fields(each)}

    @property
    def reloadable(self) -> frozenset[str]:
        """The keys that a reload applies."""
        return RELOADABLE.union(*(part.RELOADABLE for part in self.parts.values()))

    # --- derived values -------------------------------------------------------------------------------------------------

    @property
    def instance(self) -> str:
        """ "" for the daemon on the default data root, else eight hex digits derived from its data root. It is a part of the
        names of all objects (bridges, cgroups) that this daemon creates on the host."""
        return instance_of(self.data_root)

    @property
    def effective_hosts(self) -> tuple[str, ...]:
        """The addresses to listen on. With TLS and no `hosts`, dockerd listens on the TLS port of loopback only; Orlop
        listens on the unix socket, too. An empty string in `hosts` means the unix socket, never a TCP address."""
        if self.hosts:
            return tuple(dict.fromkeys(host if host.strip() else DEFAULT_HOST for host in self.hosts))
        return (DEFAULT_HOST, DEFAULT_TLS_HOST) if self.uses_tls else (DEFAULT_HOST,)

    @property
    def pid_path(self) -> str:
        """The path of the pid file: next to the exec root if that is the default one, otherwise inside the exec root."""
        if self.pidfile:
            return self.pidfile
        return "/run/orlop.pid" if self.exec_root == DEFAULT_EXEC_ROOT else os.path.join(self.exec_root, "orlop.pid")

    @property
    def uses_tls(self) -> bool:
        """Whether TCP uses TLS. As in dockerd, `tlsverify: false` means TLS without client certificates."""
        return self.tls or self.tlsverify is not None

    @property
    def verifies_clients(self) -> bool:
        """Whether TLS clients need a certificate: always, except if `tlsverify` is set to false."""
        return self.uses_tls and self.tlsverify is not False

    @property
    def effective_log_level(self) -> str:
        return "debug" if self.debug else self.log_level
