"""The drivers that are installed in this Python environment, and whether the daemon finds one of them degraded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from orlop_sdk import OrlopError, discovery, entrypoints, hooks

__all__ = ["Installed", "installed", "table", "with_degraded"]

HEAD = ("KIND", "NAME", "DISTRIBUTION", "VERSION", "STATE")


class Installed(NamedTuple):
    """`name` is the name by which daemon.json selects the driver. It is DISTRIBUTION:NAME if several distributions have a
    driver of this name. `state` is "ok", or the reason why the daemon cannot load or does not call the driver."""

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


def with_degraded(drivers: Iterable[Installed], in_use: Iterable[Mapping[str, str]]) -> list[Installed]:
    """The drivers, with the states that the daemon reports. `in_use` is the member `OrlopDrivers` of its answer to `GET
    /info`. For a runtime, this member contains the key of its entry in daemon.json. Drivers that no distribution registers
    (see `orlop_find_driver`) are in the list if the daemon uses them."""
    drivers, in_use = list(drivers), list(in_use)
    registering = {(driver.kind, driver.distribution) for driver in drivers}
    drivers += [
        Installed(each["Kind"], each["Name"].rpartition(":")[2], each["Distribution"], each["Version"], "ok")
        for each in in_use
        if (each["Kind"], each["Distribution"]) not in registering and each["Distribution"] in _finders()
    ]
    degraded = {
        (each["Kind"], each["Distribution"], "" if each["Kind"] == "runtime" else each["Name"].rpartition(":")[2]): each
        for each in in_use
        if each.get("Degraded")
    }
    found = []
    for driver in drivers:
        plain = "" if driver.kind == "runtime" else driver.name.rpartition(":")[2]
        reported = degraded.get((driver.kind, driver.distribution, plain))
        found.append(driver._replace(state=f"degraded: {reported['Degraded']}") if reported else driver)
    return sorted(found)


def _finders() -> set[str]:
    return {point.distribution()[0] for point in entrypoints.every() if point.group == f"orlop.{hooks.FINDER}"}


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
