"""What a configuration names and only this machine has: the init of `--init`. Looks, and changes nothing."""

from __future__ import annotations

import shutil

from .errors import ConfigError
from .model import Config

__all__ = ["check", "find_init", "no_init"]

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


def check(config: Config) -> None:
    """Raise `ConfigError` when the init of every container is not there: better now than at each start."""
    if (config.init or config.init_path) and not find_init(config.init_path):
        raise ConfigError(f"cannot use {'init-path' if config.init_path else 'init'}: {no_init(config.init_path)}")
