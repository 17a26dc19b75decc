"""A process's environment: the defaults, then the image's and the user's entries. If a name has several entries, the last
one is used."""

from __future__ import annotations

from collections.abc import Iterable

from .build import DEFAULT_PATH

__all__ = ["container", "inherit", "merge", "with_home"]


def merge(*lists: Iterable[str]) -> list[str]:
    """Merge lists of entries. A later entry replaces an earlier entry of the same name, in place. An entry without "="
    removes the name."""
    out: dict[str, str] = {}
    for entries in lists:
        for entry in entries:
            name, sign, value = entry.partition("=")
            if sign:
                out[name] = value
            else:
                out.pop(name, None)
    return [f"{name}={value}" for name, value in out.items()]


def inherit(own: Iterable[str], image: Iterable[str]) -> list[str]:
    """The user's entries, then the image's entries with other names, in Docker's order. A user's entry without "="
    removes the image's entry of that name."""
    kept = list(own)
    names = {entry.partition("=")[0] for entry in kept}
    return kept + [entry for entry in image if entry.partition("=")[0] not in names]


def container(hostname: str, terminal: bool, entries: Iterable[str], home: str = "", links: Iterable[str] = ()) -> list[str]:
    """The environment in Docker's order: PATH, HOSTNAME, TERM if there is a terminal, variables of links, then `entries`.
    If HOME is not set, it is set to `home`."""
    base = [f"PATH={DEFAULT_PATH}", f"HOSTNAME={hostname}"]
    if terminal:
        base.append("TERM=xterm")
    return with_home(merge(base, links, entries), home)


def with_home(entries: Iterable[str], home: str) -> list[str]:
    """The entries; if HOME is not set, it is set to `home`."""
    out = list(entries)
    if home and not any(entry.startswith("HOME=") for entry in out):
        out.append(f"HOME={home}")
    return out
