"""Apply a new configuration to a running engine. The whole configuration is checked first. If it is valid, the keys that a
reload can change are applied; otherwise nothing changes.

`check` changes nothing and raises an error if the configuration is invalid. `apply` cannot fail.
"""

from __future__ import annotations

import logging
import socket
from typing import Any, Protocol

import msgspec
import trio

import orlop_kernel.config as kernel
from orlop_engine.config import Config, EngineKeys
from orlop_engine.system.identity import daemon_id
from orlop_kernel.config import Loaded, ReloadPlan
from orlop_kernel.events import EventBus
from orlop_kernel.failures import as_orlop_error

from .containers import reload_constraints
from .containers.index import ContainerIndex
from .containers.paths import ContainerPaths
from .drivers import Drivers

__all__ = ["apply", "attributes", "check", "warn_of_runtime"]

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
    def events(self) -> EventBus: ...
    @property
    def drivers(self) -> Drivers: ...
    @property
    def networks(self) -> Networks: ...
    @property
    def index(self) -> ContainerIndex: ...
    @property
    def paths(self) -> ContainerPaths: ...
    @property
    def nursery(self) -> trio.Nursery: ...
    def reconfigure(self, config: Config) -> None: ...


async def warn_of_runtime(engine: Reloadable) -> None:
    """Warn of a missing runtime. It is not an error, because containers may use another runtime."""
    try:
        await engine.drivers.runtime(engine.config.effective_runtime)
    except Exception as error:
        why = as_orlop_error(error, "cannot use it")
        _log.warning("containers cannot be started with the default runtime: %s", why)


def check(engine: Reloadable, wanted: Loaded) -> None:
    """Raises `ConfigError` or `OrlopError` when this configuration cannot be applied, or when the next daemon cannot start
    with it."""
    config = Config.of(wanted.config)
    engine.networks.check_config(config)
    reload_constraints.check(engine.index, engine.paths, engine.config, config)


def apply(engine: Reloadable, found: ReloadPlan) -> None:
    engine.loaded, engine.needs_restart = found.loaded, found.needs_restart
    engine.reconfigure(Config.of(found.config))
    engine.nursery.start_soon(warn_of_runtime, engine)
    shown = {**attributes(found.config), "name": socket.gethostname()}
    engine.events.publish("daemon", "reload", daemon_id(found.config.data_root), shown)


def attributes(config: kernel.Config) -> dict[str, str]:
    """The attributes of the event `reload`: every reloadable value as text, in dockerd's format. As in dockerd, log-opts
    and proxies are omitted, because both may contain passwords."""
    told = config.reloadable - {"log-opts", "proxies"}
    values = {key: _text(value) for key, value in config.items().items() if key in told}
    return {**values, **config.part(EngineKeys).reload_attributes()}


def _text(value: Any) -> str:
    """Format a value as dockerd does: maps of booleans like Go's %v, all other values as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and all(isinstance(item, bool) for item in value.values()):
        return "map[" + " ".join(f"{key}:{str(item).lower()}" for key, item in sorted(value.items())) + "]"
    return msgspec.json.encode(value).decode()
