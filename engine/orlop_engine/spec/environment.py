"""A process's environment: the defaults, then what the image and the user say, the last of a name winning."""

from __future__ import annotations

from collections.abc import Iterable

from .build import DEFAULT_PATH

__all__ = ["container", "inherit", "merge"]


def merge(*lists: Iterable[str]) -> list[str]:
    """Later entries replace earlier ones of the same name, in place. An entry without "=" removes the name."""
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
    """What a container's user says, then what else the image says: the order in which Docker keeps and shows it. An entry
    of the user's without "=" takes the image's of that name away."""
    kept = list(own)
    names = {entry.partition("=")[0] for entry in kept}
    return kept + [entry for entry in image if entry.partition("=")[0] not in names]


def container(hostname: str, terminal: bool, entries: Iterable[str], home: str = "", links: Iterable[str] = ()) -> list[str]:
    """Docker's order: PATH, HOSTNAME, TERM with a terminal, what links say, then the rest. HOME is the user's unless set."""
    base = [f"PATH={DEFAULT_PATH}", f"HOSTNAME={hostname}"]
    if terminal:
        base.append("TERM=xterm")
    out = merge(base, links, entries)
    if home and not any(entry.startswith("HOME=") for entry in out):
        out.append(f"HOME={home}")
    return out
