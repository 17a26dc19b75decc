"""Imports the modules that most requests need and a start of the daemon does not, once the daemon answers.

The modules of the engine import each other inside the functions that need them where this makes the start shorter. Without
this task the first container would pay for it. Modules for rarer operations (pull, commit, copy, statistics) are left to the
first of these.
"""

from __future__ import annotations

from importlib import import_module

import trio

from orlop_sdk import LogDriver, NetworkDriver, Runtime, Storage, VolumeDriver, protocols

__all__ = ["MODULES", "run"]

_LATER = 0.02  # seconds: clients that waited for the daemon are answered first

# Modules that others here import come first, so that no step blocks the event loop for long
MODULES = (
    "spec.host",
    "spec.security",
    "containers.mount_spec",
    "containers.validate",
    "images.platforms",
    "containers.create",
    "spec.build",
    "spec.seccomp",
    "containers.bundle",
    "unpacking",
    "containers.launch",
    "containers.view",
    "images.listing",
    "containers.listing",
    "logs",
    "containers.service",
    "images.views",
)


async def run() -> None:
    """Import one module at a time, then evaluate the annotations of drivers' methods."""
    await trio.sleep(_LATER)
    for name in MODULES:
        import_module(f"{__package__}.{name}")
        await trio.lowlevel.checkpoint()
    for protocol in (Storage, Runtime, LogDriver, NetworkDriver, VolumeDriver):
        protocols.evaluate(protocol)
        await trio.lowlevel.checkpoint()
