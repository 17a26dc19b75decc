"""Apply a new configuration to a running engine: check all of it first, then apply what can be applied, or nothing.

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
    """Warn of a missing runtime. It is not an error, because containers may use another runtime."""
    try:
        engine.drivers.runtime(engine.config.default_runtime)
    except Exception as error:
        why = as_orlop_error(error, "cannot use it")
        _log.warning("containers cannot be started with the default runtime: %s", why)


def check(engine: Engine, wanted: Loaded) -> ReloadPlan:
    """Plan a reload. Raises `ConfigError` or `OrlopError` when it is impossible, or when the next start would fail with
    this configuration."""
    engine.networks.check_config(wanted.config)
    reload_constraints.check(engine.index, engine.ports.paths, engine.config, wanted.config)
    return plan(engine.loaded, wanted)


def apply(engine: Engine, found: ReloadPlan) -> None:
    engine.loaded, engine.needs_restart = found.loaded, found.needs_restart
    engine.reconfigure(found.config)
    warn_of_runtime(engine)
