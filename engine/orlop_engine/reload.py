"""A new configuration for a running engine: all of it is looked at, then what can be applied is, or nothing.

`check` raises before anything has changed; `apply` cannot fail.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from orlop_kernel.config import Loaded, ReloadPlan, plan
from orlop_kernel.failures import as_orlop_error

from .containers import reload_constraints

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ["apply", "check", "warn_of_runtime"]

_log = logging.getLogger("orlop.daemon")


def warn_of_runtime(engine: Engine) -> None:
    """A missing runtime is only a warning: containers may name another."""
    try:
        engine.drivers.runtime(engine.config.default_runtime)
    except Exception as error:
        why = as_orlop_error(error, "cannot use it")
        _log.warning("containers cannot be started with the default runtime: %s", why)


def check(engine: Engine, wanted: Loaded) -> ReloadPlan:
    """What a reload would do. Raises `ConfigError` or `OrlopError` when it cannot be done, or when the next start could not
    be: a file must never lie in wait for that."""
    engine.networks.check_config(wanted.config)
    reload_constraints.check(engine.containers, wanted.config)
    return plan(engine.loaded, wanted)


def apply(engine: Engine, found: ReloadPlan) -> None:
    engine.loaded, engine.needs_restart = found.loaded, found.needs_restart
    engine.reconfigure(found.config)
    warn_of_runtime(engine)
