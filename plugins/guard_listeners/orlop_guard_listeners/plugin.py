"""The hook of the guard `listeners`."""

from __future__ import annotations

from orlop_sdk import Register, hookimpl

__all__ = ["orlop_guard"]


@hookimpl
def orlop_guard(register: Register) -> None:
    from .service import ListenerGuardPlugin

    register("listeners", ListenerGuardPlugin)
