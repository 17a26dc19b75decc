"""Apply a new configuration to a running engine: check all of it first, then apply what can be applied, or nothing.

`check` raises before anything has changed; `apply` cannot fail.
"""

from __future__ import annotations

import logging
from typing import Protocol

from orlop_engine.config import Config
from orlop_kernel.config import Loaded, ReloadPlan
from orlop_kernel.failures import as_orlop_error

from .containers import reload_constraints
from .containers.index import ContainerIndex
from .containers.paths import ContainerPaths
from .drivers import Drivers

__all__ = ["apply", "check", "warn_of_runtime"]

_log = logging.getLogger("orlop.daemon")


class Networks(Protocol):
    def check_config(self, config: Config) -> None: ...


class Reloadable(Protocol):
    """The engine."""

    loaded: Loaded
    needs_restart: tuple[str, ...]

    @property
    def config(self) -> Config: ...
    @property
    def drivers(self) -> Drivers: ...
    @property
    def networks(self) -> Networks: ...
    @property
    def index(self) -> ContainerIndex: ...
    @property
    def paths(self) -> ContainerPaths: ...
    def reconfigure(self, config: Config) -> None: ...


def warn_of_runtime(engine: Reloadable) -> None:
    """Warn of a missing runtime. It is not an error, because containers may use another runtime."""
    try:
        engine.drivers.runtime(engine.config.default_runtime)
    except Exception as error:
        why = as_orlop_error(error, "cannot use it")
        _log.warning("containers cannot be started with the default runtime: %s", why)


def check(engine: Reloadable, wanted: Loaded) -> None:
    """Raises `ConfigError` or `OrlopError` when a reload is impossible, or when the next start would fail with this
    configuration."""
    config = Config.of(wanted.config)
    engine.networks.check_config(config)
    reload_constraints.check(engine.index, engine.paths, engine.config, config)


def apply(engine: Reloadable, found: ReloadPlan) -> None:
    engine.loaded, engine.needs_restart = found.loaded, found.needs_restart
    engine.reconfigure(Config.of(found.config))
    warn_of_runtime(engine)
