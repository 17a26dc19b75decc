"""Imports modules that most requests need but the daemon's start does not need. This happens after the daemon has begun to
serve requests.

To make the start faster, modules of the engine import many other modules only inside the functions that need them. Without
this task, the first container waits for these imports. Modules for rarer operations (pull, commit, copy, statistics) are
imported when such an operation first runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module

import trio

from orlop_sdk import LogDriver, NetworkDriver, Runtime, Storage, VolumeDriver, protocols

__all__ = ["MODULES", "run"]

_LATER = 0.02  # seconds to wait, so that clients that waited for the daemon are answered first

# If a module in this list imports another one, the imported module comes first, so that no step blocks the event loop for
# long
MODULES = (
    "orlop_engine.spec.host",
    "orlop_engine.spec.security",
    "orlop_engine.containers.mount_spec",
    "orlop_engine.containers.validate",
    "orlop_engine.images.platforms",
    "orlop_engine.images.image_targets",
    "orlop_engine.containers.create",
    "orlop_engine.spec.build",
    "orlop_engine.spec.seccomp",
    "orlop_engine.containers.bundle",
    "orlop_engine.unpacking",
    "orlop_engine.containers.launch",
    "orlop_engine.containers.details",
    "orlop_engine.images.listing",
    "orlop_engine.containers.listing",
    "orlop_engine.logs",
    "orlop_engine.containers.service",
    "orlop_engine.images.details",
)


async def run(modules: Iterable[str] = MODULES) -> None:
    """Import one module at a time, then evaluate the annotations of drivers' methods."""
    await trio.sleep(_LATER)
    for name in modules:
        import_module(name)
        await trio.lowlevel.checkpoint()
    for protocol in (Storage, Runtime, LogDriver, NetworkDriver, VolumeDriver):
        protocols.evaluate(protocol)
        await trio.lowlevel.checkpoint()
