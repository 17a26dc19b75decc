"""The guards of a daemon's listeners, put up and changed as the configuration says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from orlop_kernel.config import Config, Listener
from orlop_kernel.routing.router import Api, Route

if TYPE_CHECKING:
    from orlop_engine.engine import Engine

    from .audit import Audit
    from .authz import Chain, Plugin

__all__ = ["Access"]


class Access:
    """One per daemon. Imports the rest of the room when there is something to guard."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._audit: Audit | None = None
        self._plugins: Chain | None = None
        self._apis: list[tuple[Api, Listener | None]] = []

    @classmethod
    @asynccontextmanager
    async def open(cls, engine: Engine) -> AsyncIterator[Access]:
        """With the plugins found and the audit log open. Raises ConfigError."""
        access = cls(engine)
        async with AsyncExitStack() as stack:
            if engine.config.audit_log:
                from .audit import Audit

                access._audit = await stack.enter_async_context(Audit.open(engine.config.audit_log))
            stack.push_async_callback(access._aclose)
            access.apply(access.prepare(engine.config))
            yield access

    async def _aclose(self) -> None:
        if self._plugins is not None:
            await self._plugins.aclose()

    def api(self, routes: Iterable[Route], entry: Listener | None = None) -> Api:
        """The API as one listener serves it; without `entry`, as those of `hosts` do."""
        made = Api(routes, oldest=self._engine.config.min_api_version)
        self._apis.append((made, entry))
        self._guard(made, entry)
        return made

    def prepare(self, config: Config) -> tuple[Plugin, ...]:
        """What `apply` needs for a configuration. Changes nothing; raises ConfigError."""
        if not config.authorization_plugins:
            return ()
        if self._plugins is None:
            from .authz import Chain

            self._plugins = Chain()
        return self._plugins.prepare(config.authorization_plugins)

    def apply(self, plugins: tuple[Plugin, ...]) -> None:
        """Ask these plugins from the next request on, on all connections."""
        if self._plugins is None:
            return
        self._plugins.replace(plugins)
        for api, entry in self._apis:
            self._guard(api, entry)

    def _guard(self, api: Api, entry: Listener | None) -> None:
        if entry is None and self._audit is None and not self._plugins:
            api.guard = None
            return
        from .authz import Chain
        from .door import Door
        from .guard import Guard

        if self._plugins is None:
            self._plugins = Chain()
        api.guard = Guard(self._engine, Door.of(entry) if entry else None, self._audit, self._plugins)
