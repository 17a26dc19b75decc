"""Flags of `orlopd`: the classes `Flag` and `Kind`, and the kernel's flags. Plugins declare the flags that set their keys
(`Keys.FLAGS`).

Flags that dockerd also has are named as in dockerd. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from .values import key_value, parse_bool

__all__ = ["BOOL", "FLAGS", "INT", "LIST", "MAP", "STRING", "Flag", "Kind", "flag", "help_text"]


class Kind(NamedTuple):
    """The form of a flag's value. `parse` returns it in daemon.json's shape, or raises ValueError. Values of a repeated flag
    are combined: lists are extended and maps are merged, two levels deep; otherwise the last value is used. `alone` is the
    value of a flag that is given without "=VALUE"; if `alone` is "", the next argument is the flag's value."""

    name: str
    parse: Callable[[str], Any]
    alone: str = ""


class Flag(NamedTuple):
    """One flag. `key` is the daemon.json key that it sets, such as "mtu" or "proxies.http-proxy"; "" for none."""

    name: str
    key: str
    kind: Kind
    help: str
    short: str = ""
    hidden: bool = False


def flag(name: str, kind: Kind, help: str, key: str | None = None, short: str = "", hidden: bool = False) -> Flag:
    """Make a flag that sets `key` in the configuration. The default of `key` is the key with the flag's name."""
    return Flag(name, name if key is None else key, kind, help, short, hidden)


def _integer(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise ValueError(f'"{text}" is not a whole number') from None


def _list(text: str) -> list[str]:
    return [text]


def _map(text: str) -> dict[str, str]:
    return dict([key_value(text)])


def _show(text: str) -> str:
    if text not in ("text", "json"):
        raise ValueError(f'"{text}" is neither text nor json')
    return text


STRING = Kind("string", str)
BOOL = Kind("bool", parse_bool, "true")
INT = Kind("int", _integer)
LIST = Kind("list", _list)
MAP = Kind("map", _map)
ACTION = Kind("action", parse_bool, "true")
"""Asks `orlopd` to do something other than run the daemon."""
SHOW = Kind("show", _show, "text")

FLAGS: tuple[Flag, ...] = (
    flag("adopt", STRING, "Data root of a stopped dockerd, whose data Orlop adopts unless it did so before", key=""),
    flag(
        "allow-insecure-tcp",
        BOOL,
        "Allow TCP addresses other than loopback without client certificates: clients can become root",
    ),
    flag("check", ACTION, "Compare the database with files and kernel objects, print the differences and exit", key=""),
    flag("config-file", STRING, "Configuration file (default /etc/orlop/daemon.json, else /etc/docker/daemon.json)", key=""),
    flag("data-root", STRING, "Root directory of persistent state (default /var/lib/orlop)"),
    flag("debug", BOOL, "Enable debug mode", short="D"),
    flag("deep", ACTION, "With --check: also read all blobs of images", key=""),
    flag("exec-root", STRING, "Root directory of execution state (default /run/orlop)"),
    flag("facts", ACTION, "With --check: also print the facts about this machine that a debug bundle contains", key=""),
    flag("group", STRING, "Group that owns the unix socket (default docker)", short="G"),
    flag("help", ACTION, "Print usage", key="", short="h"),
    flag(
        "host", LIST, "Socket to listen on: unix://, tcp://, fd:// (default unix:///run/orlop.sock)", key="hosts", short="H"
    ),
    flag("log-format", STRING, "Format of the daemon's own log: text or json"),
    flag("log-level", STRING, "Level of the daemon's own log: debug, info, warn, error, fatal (default info)", short="l"),
    flag("pidfile", STRING, "File for the daemon's process id (default /run/orlop.pid)", short="p"),
    flag("repair", ACTION, "With --check: make the safe repair of each finding; user data does not change", key=""),
    flag("show-config", SHOW, "Print every key with its value and its origin, as text (default) or json, and exit", key=""),
    flag("tls", BOOL, "Use TLS on tcp:// sockets, and verify clients unless --tlsverify=false; implied by --tlsverify"),
    flag("tlscacert", STRING, "Trust only clients whose certificates this CA signed (default ~/.docker/ca.pem)"),
    flag("tlscert", STRING, "TLS certificate file (default ~/.docker/cert.pem)"),
    flag("tlskey", STRING, "TLS key file (default ~/.docker/key.pem)"),
    flag("tlsverify", BOOL, "Use TLS and verify clients; --tlsverify=false: do not verify clients"),
    flag("validate", ACTION, "Validate the configuration, print the result and exit", key=""),
    flag("version", ACTION, "Print version information and quit", key="", short="v"),
)


def help_text(flags: Iterable[Flag]) -> str:
    lines = [
        "Usage:  orlopd [OPTIONS]",
        "",
        "A container engine that serves the Docker Engine API.",
        "",
        "Every option except --config-file, --validate, --show-config, --help and --version can also be set in the",
        "configuration file, under the same name (lists in the plural). It is an error to set an option in both places.",
        "To try out a second daemon:",
        "",
        "  orlopd --data-root /tmp/o/data --exec-root /tmp/o/run -H unix:///tmp/o/orlop.sock",
        "",
        "Options:",
    ]
    words = {BOOL: "", ACTION: "", SHOW: "[=json]"}
    rows = []
    for each in sorted(flags):
        if not each.hidden:
            short = f"-{each.short}, " if each.short else "    "
            rows.append((f"  {short}--{each.name}{words.get(each.kind, f' {each.kind.name}')}", each.help))
    width = max(len(left) for left, _ in rows) + 2
    return "\n".join([*lines, *(left.ljust(width) + right for left, right in rows), ""])
