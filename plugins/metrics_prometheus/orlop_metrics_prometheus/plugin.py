"""The metrics service. The other modules of the package are imported only if `metrics-addr` is set."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING

from orlop_kernel.kinds import Context, Service
from orlop_sdk import Register, hookimpl

from .keys import MetricsKeys

if TYPE_CHECKING:
    from orlop_kernel.config import Config, Problem

__all__ = ["MetricsPlugin"]


@hookimpl
def orlop_service(register: Register) -> None:
    register("metrics", MetricsPlugin)


class MetricsPlugin:
    """Implements ServicePlugin."""

    requires = ("engine",)

    def problems(self, config: Config) -> tuple[Problem, ...]:
        """There are none, because problems only appear when the address is bound."""
        return ()

    def processes(self, config: Config) -> nullcontext[None]:
        """The service has no processes."""
        return nullcontext()

    @asynccontextmanager
    async def open(self, context: Context) -> AsyncIterator[Service]:
        """See ServicePlugin."""
        yield _Metrics(context)


class _Metrics(Service):
    def __init__(self, context: Context) -> None:
        self._context = context

    async def restore(self) -> None:
        """Serve metrics in the daemon's nursery, if there is an address for them."""
        if address := self._context.config.part(MetricsKeys).metrics_addr:
            from orlop_kernel.boot.process import client_limits

            from .serve import start

            limits = client_limits(len(self._context.config.listeners))[1]
            metrics = await start(address, self._context.services["engine"].engine, self._context.nursery, limits)
            self.on_answer = metrics.answered
