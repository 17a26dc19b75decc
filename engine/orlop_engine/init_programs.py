"""Find the init program for `--init` on this host. Read-only."""

from __future__ import annotations

import shutil

__all__ = ["find_init", "no_init"]

# Statically linked programs first: an image may lack the libraries of others
_INITS = ("docker-init", "tini-static", "tini", "catatonit")


def find_init(configured: str) -> str:
    """The path of the configured init program; if none is configured, of the first known one that is installed. "" when
    there is none."""
    names = (configured,) if configured else _INITS
    return next((found for name in names if (found := shutil.which(name))), "")


def no_init(configured: str) -> str:
    """The reason why `find_init` found none."""
    if configured:
        return f"{configured} is not an executable"
    return "no init program found (docker-init, tini or catatonit on PATH, or init-path in daemon.json)"
