"""Plugin discovery: the only typed wrapper around pluggy. No other module uses `pm.hook`.

A plugin is loaded only if it is named in the configuration or in a request. An installed plugin that is not selected costs
nothing and cannot break the daemon. The caller owns the object that the factory makes. Plugins with the hook
`orlop_find_driver` are asked for drivers that no distribution registers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import pluggy

from orlop_sdk import entrypoints, hooks
from orlop_sdk.entrypoints import EntryPoint
from orlop_sdk.errors import DriverError, NotFound, OrlopError

__all__ = ["Factory", "find", "installed", "is_finder", "origin"]


class Factory(NamedTuple):
    """A loaded plugin factory, and the distribution that contains it."""

    kind: str
    name: str
    make: Callable[..., Any]
    spi_version: int
    distribution: str
    version: str
    check_options: hooks.CheckOptions | None = None

    @property
    def origin(self) -> str:
        """DISTRIBUTION:NAME, which means this plugin even if another distribution registers the same name."""
        return f"{self.distribution}:{self.name}"


def _what(kind: str) -> str:
    return f"{kind} driver" if hooks.KINDS[kind].driver else f"{kind} plugin"


_FRESH = 5.0  # seconds
_loaded: dict[tuple[str, EntryPoint], Factory] = {}
_scanned: tuple[float, dict[str, dict[str, EntryPoint]]] = (float("-inf"), {})


def _entry_points(kind: str, max_age: float) -> dict[str, EntryPoint]:
    """The entry points of a kind by name, cached for `max_age` seconds. One scan finds the entry points of all kinds,
    because a scan reads a file of each installed distribution, and a start of the daemon needs twenty plugins."""
    global _scanned
    when, found = _scanned
    if not found or time.monotonic() - when > max_age:
        found = {}
        for point in entrypoints.every():
            if point.group.startswith("orlop."):
                _add(found.setdefault(point.group.removeprefix("orlop."), {}), point)
        _scanned = (time.monotonic(), found)
    return found.get(kind, {})


def _add(points: dict[str, EntryPoint], point: EntryPoint) -> None:
    """Add an entry point to `points`, with its name as key. If several distributions register the same entry point name, the
    keys are DISTRIBUTION:NAME, so that no plugin replaces another. If two distributions in `sys.path` have the same name,
    `points` keeps the entry point of the first distribution."""
    several = [key for key in points if key.endswith(f":{point.name}")]
    other = points.get(point.name)
    if other is None and not several:
        points[point.name] = point
        return
    distribution = point.distribution()[0]
    if other is not None:
        if other.distribution()[0] == distribution:
            return
        points[f"{other.distribution()[0]}:{point.name}"] = points.pop(point.name)
    points.setdefault(f"{distribution}:{point.name}", point)


def _select(kind: str, name: str, max_age: float) -> EntryPoint | None:
    """The entry point for a name, or for DISTRIBUTION:NAME. Raises `DriverError` if several distributions register it."""
    points = _entry_points(kind, max_age)
    several = sorted(key for key in points if key.endswith(f":{name}"))
    if several:
        raise DriverError(
            f'cannot load {_what(kind)} "{name}": several distributions register this name; '
            f"write {' or '.join(several)} in daemon.json, or uninstall the others"
        )
    distribution, colon, plain = name.rpartition(":")
    if colon and name not in points and plain in points and points[plain].distribution()[0] == distribution:
        return points[plain]
    return points.get(name)


def origin(kind: str, name: str) -> str:
    """DISTRIBUTION:NAME of the plugin that `find` would load; "" if no plugin or several plugins have the name. Imports no
    plugin. If no distribution registers the name of a driver, the only finder is assumed to find it."""
    try:
        point = _select(kind, name, float("inf")) or _select(kind, name, _FRESH)
    except DriverError:
        return ""
    if point is not None:
        return f"{point.distribution()[0]}:{point.name}"
    finders = _finders(kind)
    return f"{finders[0].distribution()[0]}:{name}" if len(finders) == 1 and ":" not in name else ""


def installed(kind: str) -> list[str]:
    """The sorted names of all installed plugins of a kind. A name that several distributions register has the form
    DISTRIBUTION:NAME. No plugin is imported."""
    return sorted(_entry_points(kind, _FRESH))


def _broken(kind: str, name: str, error: BaseException) -> DriverError:
    return DriverError(f'cannot load {_what(kind)} "{name}": {type(error).__name__}: {error}')


def _wrong_version(kind: str, written_for: object, distribution: str) -> str:
    """Why a plugin that registered the `spi_version` `written_for` cannot be used, and what to install instead. "" if the
    plugin can be used."""
    _, newest, oldest, driver = hooks.KINDS[kind]
    if not isinstance(written_for, int) or written_for < 1:
        return f"its spi_version is {written_for!r}: a whole number from 1 is needed"
    if oldest <= written_for <= newest:
        return ""
    here = f"this Orlop has version {newest}" + (f" and accepts {oldest} and newer" if oldest < newest else "")
    found = f"it is written for version {written_for} of the {kind} contract, and {here}"
    if written_for > newest:
        ours = "orlop-sdk" if driver else "orlop-sdk and orlop-kernel"
        return f"{found}; install a newer {ours}, or an older release of {distribution}"
    return f"{found}; install a newer release of {distribution}"


def _manager(kind: str, name: str, hook: str, point: EntryPoint) -> pluggy.PluginManager:
    """A plugin manager with one hook and one plugin, which this function imports. `kind` and `name` are for messages."""
    manager = pluggy.PluginManager("orlop")
    # Add only the hook of this kind, because adding all hooks takes 0.5 ms
    manager.add_hookspecs(type("Specification", (), {hook: staticmethod(getattr(hooks, hook))}))
    try:
        manager.register(point.load(), name=name)
    # also SystemExit: a module that calls sys.exit when it is imported must not end the daemon
    except BaseException as error:
        raise _broken(kind, name, error) from error
    return manager


def _finders(kind: str) -> list[EntryPoint]:
    """The plugins that may find a driver which no distribution registers, sorted by their names."""
    if not hooks.KINDS[kind].driver:
        return []
    return [point for _, point in sorted(_entry_points(hooks.FINDER, float("inf")).items())]


def is_finder(kind: str, distribution: str) -> bool:
    """Whether a distribution has a plugin with the hook `orlop_find_driver`. Imports no plugin."""
    return any(point.distribution()[0] == distribution for point in _finders(kind))


def _find_elsewhere(kind: str, name: str) -> Factory:
    """Ask the finders for a driver. DISTRIBUTION:NAME asks only the finders of one distribution."""
    wanted, _, plain = name.rpartition(":")
    places: list[str] = []
    for point in _finders(kind):
        distribution, version = point.distribution()
        if wanted not in ("", distribution):
            continue
        manager = _manager(kind, name, "orlop_find_driver", point)
        try:
            found = manager.hook.orlop_find_driver(kind=kind, name=plain, looked=places.append)
        except OrlopError:
            raise
        except BaseException as error:
            raise _broken(kind, name, error) from error
        if found is not None:
            if remedy := _wrong_version(kind, found.spi_version, distribution):
                raise DriverError(f'cannot load {_what(kind)} "{name}": {remedy}')
            return Factory(kind, plain, found.factory, found.spi_version, distribution, version)
    have = ", ".join(installed(kind)) or "none"
    looked = f"; there is none of {', '.join(places)}" if places else ""
    raise NotFound(f'cannot find {_what(kind)} "{name}": installed {_what(kind)}s are: {have}{looked}')


def find(kind: str, name: str) -> Factory:
    """Load the plugin `name` of `kind`. Raises `NotFound` if there is no such plugin; the message lists the installed
    plugins. Raises `DriverError` if the plugin cannot be imported, does not register `name`, or was written for another
    version of the kind's contract."""
    # Scan again only for an unknown name: its plugin may have been installed after the last scan
    point = _select(kind, name, float("inf")) or _select(kind, name, _FRESH)
    if point is None:
        return _find_elsewhere(kind, name)
    if (kind, point) in _loaded:
        return _loaded[kind, point]
    hook = hooks.KINDS[kind].hook
    manager = _manager(kind, name, hook, point)
    found: dict[str, tuple[Callable[..., Any], int, hooks.CheckOptions | None]] = {}

    def register(
        name: str,
        factory: Callable[..., Any],
        *,
        spi_version: int = 1,
        check_options: hooks.CheckOptions | None = None,
    ) -> None:
        found[name] = (factory, spi_version, check_options)

    try:
        getattr(manager.hook, hook)(register=register)
    except BaseException as error:
        raise _broken(kind, name, error) from error
    if point.name not in found:
        offers = ", ".join(sorted(found)) or "nothing"
        raise DriverError(f'cannot load {_what(kind)} "{name}": its plugin registers {offers}')
    make, spi_version, check_options = found[point.name]
    distribution, version = point.distribution()
    if remedy := _wrong_version(kind, spi_version, distribution or f"the plugin {name}"):
        raise DriverError(f'cannot load {_what(kind)} "{name}": {remedy}')
    _loaded[kind, point] = Factory(kind, point.name, make, spi_version, distribution, version, check_options)
    return _loaded[kind, point]
