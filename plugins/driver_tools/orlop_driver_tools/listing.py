"""The drivers that are installed in this Python environment."""

from __future__ import annotations

from typing import NamedTuple

from orlop_sdk import OrlopError, discovery, entrypoints, hooks

__all__ = ["Installed", "installed", "table"]

HEAD = ("KIND", "NAME", "DISTRIBUTION", "VERSION", "STATE")


class Installed(NamedTuple):
    """`name` is the name by which daemon.json selects the driver. It is DISTRIBUTION:NAME if several distributions have a
    driver of this name. `state` is "ok", or the reason why the daemon cannot load the driver."""

    kind: str
    name: str
    distribution: str
    version: str
    state: str


def installed() -> list[Installed]:
    """All drivers, sorted. Imports each of them, as the daemon does when it needs the driver."""
    found: dict[tuple[str, str], Installed] = {}
    for point in entrypoints.every():
        if point.group not in hooks.GROUPS:
            continue
        kind = point.group.removeprefix("orlop.")
        distribution, version = point.distribution()
        qualified = f"{distribution}:{point.name}"
        name = qualified if qualified in discovery.installed(kind) else point.name
        if (kind, name) not in found:  # another directory may have the same distribution, which Python does not import
            found[kind, name] = Installed(kind, name, distribution, version, _state(kind, name))
    return sorted(found.values())


def _state(kind: str, name: str) -> str:
    try:
        discovery.find(kind, name)
    except OrlopError as error:
        return str(error)
    return "ok"


def table(drivers: list[Installed]) -> str:
    """The drivers as text, in columns."""
    rows = [HEAD, *drivers]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD) - 1)]
    lines = ("   ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[-1]]) for row in rows)
    return "\n".join(lines)
