"""Registers the engine as a service of the daemon: its processes, its start and end, its part of a reload.

This module has few imports. `open` imports the engine, while the zygote imports its modules in parallel.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import orlop_kernel.config as kernel
from orlop_engine.config import Config, policy
from orlop_engine.processes.runs import release_private_directory
from orlop_engine.processes.zygote import Zygote
from orlop_kernel.config import Problem
from orlop_sdk import Register, hookimpl

if TYPE_CHECKING:
    from orlop_kernel.kinds import Context, Service

__all__ = ["EnginePlugin"]

_log = logging.getLogger("orlop.daemon")


@hookimpl
def orlop_service(register: Register) -> None:
    register("engine", EnginePlugin)


class EnginePlugin:
    """Implements ServicePlugin."""

    requires = ()

    def problems(self, config: kernel.Config) -> Iterator[Problem]:
        """See ServicePlugin."""
        from orlop_engine.config_check import problems

        return problems(Config.of(config))

    @asynccontextmanager
    async def processes(self, config: kernel.Config) -> AsyncIterator[Zygote]:
        """Run the zygote. Monitors mount below `<exec-root>/mnt`, which is a mount point while the engine is open. If no
        container is left at the end, this mount point is released, even if the daemon ends with an error, so that no mount
        of Orlop remains on the host."""
        own = Config.of(config)
        try:
            async with Zygote.start(config.exec_root, [own.log_driver], _programs(own)) as zygote:
                yield zygote
        finally:
            runs = os.path.join(config.exec_root, "run")
            if not os.path.isdir(runs) or not os.listdir(runs):
                release_private_directory(os.path.join(config.exec_root, "mnt"))

    @asynccontextmanager
    async def open(self, context: Context) -> AsyncIterator[Service]:
        from orlop_engine import reload
        from orlop_engine.engine import Engine
        from orlop_engine.service import EngineService

        config = Config.of(context.config)
        async with Engine.open(config, context.store, context.events, context.processes, context.nursery) as engine:
            engine.loaded = context.loaded
            if context.loaded.origins:
                _log.info("configuration: %s", policy.summary(context.loaded.origins))
            await reload.warn_of_runtime(engine)
            yield EngineService(engine)


def _programs(config: Config) -> list[str]:
    """The program of the default runtime, which starts most containers."""
    entry = config.all_runtimes().get(config.effective_runtime)
    found = shutil.which(entry.path) if entry and entry.path else None
    return [found] if found else []
