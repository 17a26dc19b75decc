"""Creates the guards of a daemon's listeners and applies reloads to them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from orlop_kernel.config import Config, ConfigError, Listener, Problem
from orlop_kernel.kinds import Context
from orlop_kernel.routing.router import Guard as AnyGuard

from .keys import AccessKeys

if TYPE_CHECKING:
    from orlop_engine.engine import Engine

    from .audit import Audit
    from .authz import Chain, Plugin

__all__ = ["ListenerGuardPlugin", "ListenerGuards"]


class ListenerGuardPlugin:
    """Implements GuardPlugin."""

    def problems(self, config: Config) -> Iterator[Problem]:
        """See GuardPlugin."""
        if names := config.part(AccessKeys).authorization_plugins:
            from .authz_find import find

            for name in dict.fromkeys(names):
                try:
                    find(name)
                except ConfigError as error:
                    yield Problem(str(error), ("authorization-plugins",))

    @asynccontextmanager
    async def open(self, context: Context) -> AsyncIterator[ListenerGuards]:
        """The guards. The authorization plugins have been found and the audit log is open. Raises ConfigError."""
        async with ListenerGuards(context).opened() as guards:
            yield guards


class ListenerGuards:
    """Implements Guards. The other modules of the package are imported only when they are needed."""

    def __init__(self, context: Context) -> None:
        self._engine: Engine = context.services["engine"].engine
        self._config = context.config
        self._audit: Audit | None = None
        self._plugins: Chain | None = None

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[ListenerGuards]:
        """See ListenerGuardPlugin.open."""
        async with AsyncExitStack() as stack:
            if audit_log := self._config.part(AccessKeys).audit_log:
                from .audit import Audit

                self._audit = await stack.enter_async_context(Audit.open(audit_log))
            stack.push_async_callback(self._aclose)
            self.prepare(self._config)()
            yield self

    async def _aclose(self) -> None:
        if self._plugins is not None:
            await self._plugins.aclose()

    def prepare(self, config: Config) -> Callable[[], None]:
        """See Guards. Prepares the authorization plugins of this configuration, which are used from the next request on."""
        names = config.part(AccessKeys).authorization_plugins
        if self._plugins is None:
            if not names:
                return _nothing
            from .authz import Chain

            self._plugins = Chain()
        return partial(self._apply, self._plugins, self._plugins.prepare(names))

    @staticmethod
    def _apply(chain: Chain, plugins: tuple[Plugin, ...]) -> None:
        chain.replace(plugins)

    def guard(self, listener: Listener | None) -> AnyGuard | None:
        """See Guards."""
        if listener is None and self._audit is None and not self._plugins:
            return None
        from .authz import Chain
        from .guard import Guard
        from .listener_policy import ListenerPolicy

        if self._plugins is None:
            self._plugins = Chain()
        return Guard(self._engine, ListenerPolicy.of(listener) if listener else None, self._audit, self._plugins)


def _nothing() -> None:
    """Used for a reload if there are no authorization plugins, neither before nor after the reload."""
