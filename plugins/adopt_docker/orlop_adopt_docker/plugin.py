"""The hooks: the service that maintains an adopted root, and `orlopd --adopt`. This module has few imports, because every
start of the daemon imports it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager

from orlop_kernel.config import Config, Problem
from orlop_kernel.kinds import Context, Service
from orlop_sdk import Register, hookimpl

__all__ = ["AdoptPlugin", "at_start"]

_ROWS = "adoption"  # the beginning of the keys in `adopted`


@hookimpl
def orlop_service(register: Register) -> None:
    register("adopt", AdoptPlugin)


@hookimpl
def orlop_command(register: Register) -> None:
    register("adopt", at_start)


class AdoptPlugin:
    """Implements ServicePlugin."""

    requires = ()

    def problems(self, config: Config) -> Iterator[Problem]:
        """See ServicePlugin."""
        return iter(())

    @asynccontextmanager
    async def processes(self, config: Config) -> AsyncIterator[None]:
        """This service has no processes."""
        yield None

    @asynccontextmanager
    async def open(self, context: Context) -> AsyncIterator[Service]:
        """Open the service; this happens before the engine is opened. Raises `Conflict` while dockerd runs on the adopted
        root."""
        with ExitStack() as stack:
            if any(key.startswith(_ROWS) for key, _ in context.store.load("meta")):
                from .service import watch

                await watch(context.store, context.config.data_root, stack)
            yield Service()


def at_start(config: Config, words: Sequence[str]) -> int:
    """`orlopd --adopt PATH`: adopt the root before the daemon starts, unless it has been adopted already. Returns 0 if the
    daemon may start."""
    import trio

    from orlop_engine.config import Config as EngineConfig
    from orlop_sdk import OrlopError

    from . import adoption, report

    try:
        outcome = trio.run(adoption.adopt, EngineConfig.of(config), words[0])
    except OrlopError as error:
        print(f"failed to start daemon: {error}", file=sys.stderr)
        return 1
    if outcome.plan is not None:
        print(f"adopted {words[0]}: {report.sentence(outcome.plan)}", file=sys.stderr)
        for item in outcome.plan.items:
            if item.text:
                print(f"adopted {words[0]}: {item.kind} {item.name}: {item.text}", file=sys.stderr)
    return 0
