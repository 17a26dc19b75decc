"""The hooks: one a driver kind. Hooks register, objects work; no hook is on a request path.

A plugin is a module named by an entry point in the group of its kind (`orlop.storage`, `orlop.log`, `orlop.network`,
`orlop.runtime`, `orlop.volume`), under the name that daemon.json or a request uses. It holds one function:

    from orlop_sdk import hookimpl

    @hookimpl
    def orlop_log(register):
        register("json-file", JsonFile, spi_version=1)

The factory is called once, with the kind's context (log drivers: with nothing), when configuration selects the name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import pluggy

__all__ = ["GROUPS", "Register", "hookimpl", "hookspec"]

hookspec = pluggy.HookspecMarker("orlop")
hookimpl = pluggy.HookimplMarker("orlop")

GROUPS = ("orlop.storage", "orlop.log", "orlop.network", "orlop.runtime", "orlop.volume")


class Register(Protocol):
    """What a hook is given: call it once a driver name."""

    def __call__(self, name: str, factory: Callable[..., Any], *, spi_version: int = 1) -> None: ...


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
