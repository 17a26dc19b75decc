"""The hooks: one per plugin kind. Hooks register, objects work; no hook is on a request path.

A plugin is a module named by an entry point in the group of its kind (`orlop.storage`, `orlop.log`, ...: `KINDS`), under the
name that daemon.json or a request uses. It holds one function:

    from orlop_sdk import hookimpl

    @hookimpl
    def orlop_log(register):
        register("json-file", JsonFile, spi_version=1)

The factory is called once, with the kind's context (log drivers: with nothing), when configuration selects the name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import pluggy

__all__ = ["GROUPS", "KINDS", "CheckOptions", "Kind", "Register", "hookimpl", "hookspec"]

hookspec = pluggy.HookspecMarker("orlop")
hookimpl = pluggy.HookimplMarker("orlop")


class Kind(NamedTuple):
    """`hook` is the function that a plugin of the kind defines. `version` is the version of the kind's contract that this
    sdk describes. `driver`: it runs behind the engine; the other kinds are parts of the daemon."""

    hook: str
    version: int = 1
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
    "command": Kind("orlop_command", driver=False),
}
GROUPS = tuple(f"orlop.{name}" for name, kind in KINDS.items() if kind.driver)


CheckOptions = Callable[[Sequence[tuple[str, str]]], None]
"""Raises InvalidParameter for options, as (name, value), that the driver's factory would refuse. Touches nothing."""


class Register(Protocol):
    """What a hook is given: call it once for each name. `check_options` lets `orlopd --validate` and a reload check the
    driver's options in daemon.json without making the driver (storage drivers)."""

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
    """Register factories `() -> ServicePlugin` (orlop_kernel.kinds): a part of the daemon with a life of its own."""


@hookspec
def orlop_frontend(register: Register) -> None:
    """Register factories `(Services) -> FrontEnd` (orlop_kernel.kinds): routes of an API."""


@hookspec
def orlop_guard(register: Register) -> None:
    """Register factories `(Services) -> GuardPlugin` (orlop_kernel.kinds): decides about requests."""


@hookspec
def orlop_command(register: Register) -> None:
    """Register functions `(Config, words) -> exit code`: what `orlopd --NAME` does without serving."""
