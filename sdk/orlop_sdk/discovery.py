"""Finding drivers: the one typed wrapper around pluggy. Nobody else says `pm.hook`.

Only what configuration or a request names is loaded: an installed driver that nobody selected costs nothing and can break
nothing. Owns no driver's lifetime; who asks for one keeps it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from orlop_sdk import hooks
from orlop_sdk.common import SPI_VERSION
from orlop_sdk.errors import DriverError, NotFound

__all__ = ["Factory", "find", "installed"]

_HOOKS = {
    "storage": "orlop_storage",
    "log": "orlop_log",
    "network": "orlop_network",
    "runtime": "orlop_runtime",
    "volume": "orlop_volume",
}


@dataclass(frozen=True, slots=True)
class Factory:
    """A loaded driver factory and where it came from."""

    kind: str
    name: str
    make: Callable[..., Any]
    spi_version: int
    distribution: str
    version: str


def _entry_points(kind: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"orlop.{kind}")}


def installed(kind: str) -> list[str]:
    """The names of all installed drivers of a kind, sorted. Imports none of them."""
    return sorted(_entry_points(kind))


def find(kind: str, name: str) -> Factory:
    """Load the driver `name` of `kind`. `NotFound` lists what is installed; `DriverError` when it cannot be used."""
    point = _entry_points(kind).get(name)
    if point is None:
        have = ", ".join(installed(kind)) or "none"
        raise NotFound(f'cannot find {kind} driver "{name}": installed {kind} drivers are: {have}')
    manager = pluggy.PluginManager("orlop")
    manager.add_hookspecs(hooks)
    try:
        manager.register(point.load(), name=name)
    except Exception as error:
        raise DriverError(f'cannot load {kind} driver "{name}": {type(error).__name__}: {error}') from error
    found: dict[str, tuple[Callable[..., Any], int]] = {}

    def register(name: str, factory: Callable[..., Any], *, spi_version: int = 1) -> None:
        found[name] = (factory, spi_version)

    getattr(manager.hook, _HOOKS[kind])(register=register)
    if name not in found:
        offers = ", ".join(sorted(found)) or "nothing"
        raise DriverError(f'cannot load {kind} driver "{name}": its plugin registers {offers}')
    make, spi_version = found[name]
    if spi_version > SPI_VERSION:
        raise DriverError(
            f'cannot load {kind} driver "{name}": it needs driver interface {spi_version}, this Orlop has {SPI_VERSION}; '
            "upgrade orlop-kernel or install an older release of the driver"
        )
    dist = point.dist
    return Factory(kind, name, make, spi_version, dist.name if dist else "", dist.version if dist else "")
