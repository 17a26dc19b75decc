"""Find the init program for `--init` on this host."""

from __future__ import annotations

import shutil

__all__ = ["find_init", "no_init"]

# Statically linked programs come first, because an image may lack the libraries of dynamically linked programs
_INITS = ("docker-init", "tini-static", "tini", "catatonit")


def find_init(configured: str) -> str:
    """The path of the init program: the configured path, or, if no path is configured, the path of the first known init
    program that is installed. "" if none is installed."""
    names = (configured,) if configured else _INITS
    return next((found for name in names if (found := shutil.which(name))), "")


def no_init(configured: str) -> str:
    """The reason why `find_init` found no init program."""
    if configured:
        return f"{configured} is not an executable"
    return "no init program found (docker-init, tini or catatonit on PATH, or init-path in daemon.json)"
