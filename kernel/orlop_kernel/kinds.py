"""The plugin kinds that make up the daemon: services, front ends, guards and checks.

The daemon opens the services that daemon.json names, in the order of their requirements. It collects the routes of the front
ends, puts the guards in front of the routes, and answers requests. The daemon knows nothing else about plugins. The
consistency check (`orlop system check`) opens the checks; it may also run while no daemon runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import trio

if TYPE_CHECKING:
    from orlop_kernel.config import Config, Listener, Loaded, Problem, ReloadPlan
    from orlop_kernel.events import EventBus
    from orlop_kernel.routing.dialect import Dialect
    from orlop_kernel.routing.router import Guard, OnAnswer, Route
    from orlop_kernel.store import Examined, Store
    from orlop_sdk.findings import Finding

__all__ = ["Check", "CheckPlugin", "Context", "FrontEnd", "GuardPlugin", "Guards", "Service", "ServicePlugin", "Services"]


class Context(NamedTuple):
    """The parts of the daemon that a plugin can use. `nursery` runs tasks that may outlive the request that started them;
    they end when the daemon stops. `services` are the open services; a service gets only the services that were opened
    before it. `processes` is the value that `ServicePlugin.processes` yielded; None for other kinds."""

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
    """A part of the daemon, open until `ServicePlugin.open` exits. By default, every method does nothing."""

    on_answer: OnAnswer | None = None
    """Called after each answer of a front end, once `restore` has returned."""

    async def restore(self) -> None:
        """Called once, after all services are open and before the first request: reconcile stored state with the machine."""
        await trio.lowlevel.checkpoint()

    def serving(self) -> None:
        """Called when the daemon answers requests. Work that must not delay the first answer is done here."""

    def check_reload(self, wanted: Loaded) -> None:
        """Raise ConfigError or OrlopError when this configuration cannot be applied. Changes nothing."""

    def apply_reload(self, found: ReloadPlan) -> None:
        """Apply the configuration, which every service has checked. Must not fail."""

    def stop_limit(self) -> float:
        """The longest time, in seconds, that `shutdown` may take."""
        return 0.0

    async def shutdown(self) -> None:
        """Called when no more requests are accepted; running requests may finish. Cancelled at `stop_limit`, or sooner."""
        await trio.lowlevel.checkpoint()

    def stopped(self) -> None:
        """Called after `shutdown` returned or was cancelled, to log the result."""


Services = Mapping[str, Any]
"""The open services by name."""


class ServicePlugin(Protocol):
    """`requires` names the services that are opened first."""

    requires: tuple[str, ...]

    def problems(self, config: Config) -> Iterable[Problem]:
        """The problems that prevent the service from starting with this configuration on this machine. Changes nothing.
        `open` and `check_reload` refuse a configuration with such problems."""
        ...

    def processes(self, config: Config) -> AbstractAsyncContextManager[Any]:
        """Start the processes of the service. The context is entered before the daemon imports most of its modules, so that
        the processes and the daemon start in parallel. It is exited last."""
        ...

    def open(self, context: Context) -> AbstractAsyncContextManager[Service]:
        """Open the service; exiting the context closes it. Raises ConfigError or OrlopError when the daemon cannot start."""
        ...


class FrontEnd(Protocol):
    """Serves an API; the factory of a front end takes the `Context`. All routes use one dialect: the dialect of the first
    front end whose `dialect` is not None."""

    dialect: Dialect | None

    def routes(self) -> Iterable[Route]: ...


class Guards(Protocol):
    """The guards of one daemon's listeners."""

    def guard(self, listener: Listener | None) -> Guard | None:
        """The guard of calls on this entry of `listeners`, or, if `listener` is None, on the addresses of `hosts`."""
        ...

    def prepare(self, config: Config) -> Callable[[], None]:
        """Check a reloaded configuration. The returned function applies it and cannot fail. Raises ConfigError."""
        ...


class GuardPlugin(Protocol):
    def problems(self, config: Config) -> Iterable[Problem]:
        """See ServicePlugin.problems."""
        ...

    def open(self, context: Context) -> AbstractAsyncContextManager[Guards]:
        """Open the guards; exiting the context closes them. Raises ConfigError."""
        ...


class Check(Protocol):
    """Compares the actual state of one part of the daemon with the expected state. One object is used for one run of the
    check, from the first `examine` to the last; calls do not overlap. A check never changes user data."""

    async def examine(self, database: Examined, *, deep: bool) -> Sequence[Finding]:
        """Every inconsistency, found without changing anything. `database` is a snapshot of all tables, which all checks
        share. `deep`: also run slow checks, such as reading all content. Later calls without `deep` report the findings of
        slow checks again while they may still be true."""
        ...

    def in_progress(self, finding: Finding) -> bool:
        """Whether a running operation of the daemon may be the cause of the finding. Such a finding is not reported."""
        ...

    async def repair(self, finding: Finding) -> bool:
        """If the finding is still true, do what `finding.repair` describes. Returns false if only a running daemon can do
        this. On failure, it may raise any exception."""
        ...

    async def facts(self, database: Examined) -> Mapping[str, str]:
        """Maps file names to texts without secrets, for a debug bundle."""
        ...


class CheckPlugin(Protocol):
    """The check of a service, front end or guard, registered under the same name as that plugin."""

    def open(self, config: Config, services: Services) -> AbstractAsyncContextManager[Check]:
        """Open the check. If no daemon runs, `services` is empty, and the caller has locked data root and exec root."""
        ...
