"""The plugin kinds that the daemon itself is made of: services, front ends and guards.

The daemon opens the services that daemon.json names, in the order of their requirements, collects the routes of the front
ends, puts the guards in front of them, and serves. It knows nothing else of what a plugin is for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple, Protocol

import trio

from orlop_kernel.config import Config, Listener, Loaded, Problem, ReloadPlan
from orlop_kernel.events import EventBus
from orlop_kernel.routing.dialect import Dialect
from orlop_kernel.routing.router import Guard, OnAnswer, Route
from orlop_kernel.store import Store

__all__ = ["FrontEnd", "GuardPlugin", "Guards", "Service", "ServiceContext", "ServicePlugin", "Services"]


class ServiceContext(NamedTuple):
    """What a service is made from. `nursery` runs what outlives the request that started it, until the daemon stops.
    `services` are those that it requires; `processes` is what its `processes` gave."""

    loaded: Loaded
    store: Store
    events: EventBus
    nursery: trio.Nursery
    services: Services
    processes: Any

    @property
    def config(self) -> Config:
        return self.loaded.config


class Service:
    """A part of the daemon between `open` and its end. Every step has a default that does nothing."""

    on_answer: OnAnswer | None = None
    """Called after each answer of a front end, once `restore` has returned."""

    async def restore(self) -> None:
        """Called once, after all services are open and before the first request: bring state and machine in line."""
        await trio.lowlevel.checkpoint()

    def check_reload(self, wanted: Loaded) -> None:
        """Raise ConfigError or OrlopError when this configuration cannot be taken. Changes nothing."""

    def apply_reload(self, found: ReloadPlan) -> None:
        """Take the configuration that every service has checked. Must not fail."""

    def stop_limit(self) -> float:
        """How many seconds `shutdown` may take."""
        return 0.0

    async def shutdown(self) -> None:
        """Called when nothing more is accepted and while running requests end. Cancelled at the limit, or sooner."""
        await trio.lowlevel.checkpoint()

    def stopped(self) -> None:
        """Called after `shutdown`, whether it ended by itself or was cancelled: what there is to log."""


Services = Mapping[str, Any]
"""The open services by name."""


class ServicePlugin(Protocol):
    """`requires` names the services that are opened first."""

    requires: tuple[str, ...]

    def problems(self, config: Config) -> Iterable[Problem]:
        """What would keep the service from starting with this configuration on this machine. Changes nothing; `open` and
        `check_reload` refuse the same."""
        ...

    def processes(self, config: Config) -> AbstractAsyncContextManager[Any]:
        """Start the processes of the service. Entered before the daemon imports its larger half, so that both run side by
        side; left after everything else."""
        ...

    def open(self, context: ServiceContext) -> AbstractAsyncContextManager[Service]:
        """The service, until the context is left. Raises ConfigError or OrlopError when the daemon cannot start."""
        ...


class FrontEnd(Protocol):
    """Serves an API over the services. The `dialect` of the first front end that has one answers where no handler does."""

    dialect: Dialect | None

    def routes(self) -> Iterable[Route]: ...


class Guards(Protocol):
    """The guards of one daemon's listeners."""

    def guard(self, listener: Listener | None) -> Guard | None:
        """What stands around every call through this entry of `listeners`; None is an address of `hosts`."""
        ...

    def prepare(self, config: Config) -> Callable[[], None]:
        """Check a reloaded configuration; the result applies it and cannot fail. Raises ConfigError."""
        ...


class GuardPlugin(Protocol):
    def problems(self, config: Config) -> Iterable[Problem]:
        """As of a service."""
        ...

    def open(self, services: Services, config: Config) -> AbstractAsyncContextManager[Guards]:
        """Raises ConfigError."""
        ...
