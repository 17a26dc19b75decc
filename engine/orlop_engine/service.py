"""The engine's interface for the daemon and other plugins."""

from __future__ import annotations

import logging
import math

from orlop_engine import preload, reload
from orlop_engine.engine import Engine
from orlop_kernel.config import Loaded, ReloadPlan
from orlop_kernel.kinds import Service

__all__ = ["EngineService"]

_log = logging.getLogger("orlop.daemon")
_MARGIN = 5.0  # seconds that are added to the longest stop timeout, as in dockerd


class EngineService(Service):
    """`engine` is used by front ends and guards."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.preload = list(preload.MODULES)
        """The modules that `preload` imports. Front ends add modules to this list."""

    async def restore(self) -> None:
        """See Service."""
        await self.engine.restore()

    def serving(self) -> None:
        """See Service."""
        self.engine.serving.set()
        self.engine.nursery.start_soon(preload.run, self.preload)

    def check_reload(self, wanted: Loaded) -> None:
        """See Service."""
        reload.check(self.engine, wanted)

    def apply_reload(self, found: ReloadPlan) -> None:
        """See Service."""
        reload.apply(self.engine, found)

    def stop_limit(self) -> float:
        """Seconds that a shutdown may take, as in dockerd. This is the larger of `shutdown-timeout` and the longest stop
        timeout of a running container plus 5. It is infinite if one of these timeouts is negative."""
        config = self.engine.config
        items = self.engine.index
        # A container with a `run` may still be starting; such a container must be stopped as well
        own = [item.record.config.stop_timeout for item in items if item.record.state.running or item.run is not None]
        seconds = [value if isinstance(value, int) else config.default_stop_timeout for value in own]
        if config.shutdown_timeout < 0 or any(value < 0 for value in seconds):
            return math.inf
        return max(float(config.shutdown_timeout), max(seconds, default=0) + _MARGIN)

    async def shutdown(self) -> None:
        """Stop the containers, or leave them to their monitors (`live-restore`)."""
        self.engine.drivers.stop()
        await self.engine.shutdown(leave_running=self.engine.config.live_restore)

    def stopped(self) -> None:
        """See Service."""
        running = self.engine.index.counts()["running"]
        if self.engine.config.live_restore or not running:
            _log.info("stopped; %d containers are left running", running)
        else:
            _log.warning("forced shutdown: %d containers still run; the next start of the daemon stops them", running)
