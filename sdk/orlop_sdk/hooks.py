"""The pluggy hooks, one per plugin kind. A hook only registers factories; the objects that the factories make do the work.

A plugin is a module with an entry point in the group of its kind (`orlop.storage`, `orlop.log`, ...; see `KINDS`). The name
of the entry point is the name that daemon.json or a request uses. The module defines one function:

    from orlop_sdk import hookimpl

    @hookimpl
    def orlop_log(register):
        register("json-file", JsonFile, spi_version=1)

The factory is called once, when configuration or a request first selects the name. Its argument is the context of the
plugin's kind (`StorageContext`, for example); the factory of a log driver takes no argument.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import pluggy

__all__ = ["FINDER", "GROUPS", "KINDS", "CheckOptions", "FoundDriver", "Kind", "Register", "hookimpl", "hookspec"]

hookspec = pluggy.HookspecMarker("orlop")
hookimpl = pluggy.HookimplMarker("orlop")


class Kind(NamedTuple):
    """A plugin kind. `hook` is the name of the function that a plugin of this kind defines. `version` is the major version
    of the kind's contract in this SDK. `oldest` is the oldest version of the contract for which plugins may be written.
    `driver` is true for drivers, which the engine calls; plugins of other kinds are parts of the daemon."""

    hook: str
    version: int = 1
    oldest: int = 1
    driver: bool = True


KINDS = {
    "storage": Kind("orlop_storage"),
    "log": Kind("orlop_log"),
    "network": Kind("orlop_network"),
    "runtime": Kind("orlop_runtime"),
    "volume": Kind("orlop_volume"),
    "service": Kind("orlop_service", driver=False),
    "frontend": Kind("orlop_frontend", driver=False),
    "guard": Kind("orlop_guard", driver=False),
    "keys": Kind("orlop_keys", driver=False),
    "check": Kind("orlop_check", driver=False),
    "command": Kind("orlop_command", driver=False),
}
FINDER = "finder"
"""Plugins of the group `orlop.finder` find drivers that no distribution registers: see `orlop_find_driver`. They have no
names that users select."""
GROUPS = tuple(f"orlop.{name}" for name, kind in KINDS.items() if kind.driver)


CheckOptions = Callable[[Sequence[tuple[str, str]]], None]
"""Takes (name, value) pairs. Raises `InvalidParameter` for options that the driver's factory would refuse. Has no side
effects."""


class Register(Protocol):
    """The function that a hook gets as argument. The hook calls it once for each name that the plugin provides.
    `spi_version` is the version of the kind's contract that the plugin was written for. `check_options` (storage drivers)
    checks the driver's options in daemon.json. `orlopd --validate` and a reload call it, and do not call the factory."""

    def __call__(
        self, name: str, factory: Callable[..., Any], *, spi_version: int = 1, check_options: CheckOptions | None = None
    ) -> None: ...


@hookspec
def orlop_storage(register: Register) -> None:
    """Register factories `StorageContext -> Storage`."""


@hookspec
def orlop_log(register: Register) -> None:
    """Register factories `() -> LogDriver`."""


@hookspec
def orlop_network(register: Register) -> None:
    """Register factories `NetworkContext -> NetworkDriver`."""


@hookspec
def orlop_runtime(register: Register) -> None:
    """Register factories `RuntimeContext -> Runtime`."""


@hookspec
def orlop_volume(register: Register) -> None:
    """Register factories `VolumeContext -> VolumeDriver`."""


@hookspec
def orlop_service(register: Register) -> None:
    """Register factories `() -> ServicePlugin` (orlop_kernel.kinds). A service is a part of the daemon that runs its own
    tasks."""


@hookspec
def orlop_frontend(register: Register) -> None:
    """Register factories `(Context) -> FrontEnd` (orlop_kernel.kinds). A front end has the routes of an API."""


@hookspec
def orlop_guard(register: Register) -> None:
    """Register factories `() -> GuardPlugin` (orlop_kernel.kinds). A guard controls the access of requests."""


@hookspec
def orlop_keys(register: Register) -> None:
    """Register subclasses of `orlop_kernel.config.Keys`. A subclass defines the keys of daemon.json that belong to the
    service, front end or guard of the same name."""


@hookspec
def orlop_check(register: Register) -> None:
    """Register factories `() -> CheckPlugin` (orlop_kernel.kinds). A check compares the actual state of the service, front
    end or guard of the same name with the expected state."""


@hookspec
def orlop_command(register: Register) -> None:
    """Register functions `(Config, arguments) -> exit code`. `orlopd --check` calls the function `check` and exits; `orlopd
    --adopt PATH` calls the function `adopt` and starts the daemon if the exit code is 0."""


class FoundDriver(NamedTuple):
    """The answer of `orlop_find_driver`. `factory` and `spi_version` are the same as in `Register`."""

    factory: Callable[..., Any]
    spi_version: int = 1


@hookspec(firstresult=True)
def orlop_find_driver(kind: str, name: str, looked: Callable[[str], None]) -> FoundDriver | None:
    """Find a driver that no distribution registers, for example because its name is the name of a socket. `kind` is
    "storage", "log", "network", "runtime" or "volume". Returns None if there is no such driver. Calls `looked` with each
    place where the driver could be; an error message lists these places. Called for each unknown name, on a thread, so it
    must be fast. The name comes from a request: it may contain any characters."""
