"""What a configuration names and only this machine has: the init of `--init`. Looks, and changes nothing."""

from __future__ import annotations

import shutil

__all__ = ["find_init", "no_init"]

_INITS = ("docker-init", "tini-static", "tini", "catatonit")  # the static one first: images may lack the other's libraries


def find_init(configured: str) -> str:
    """The init of `--init`: the configured one, else the first known one that is installed; "" when there is none."""
    names = (configured,) if configured else _INITS
    return next((found for name in names if (found := shutil.which(name))), "")


def no_init(configured: str) -> str:
    """Why there is none."""
    if configured:
        return f"{configured} is not an executable"
    return "no init program found (docker-init, tini or catatonit on PATH, or init-path in daemon.json)"
