"""The hooks: the service that looks after an adopted root, and `orlopd --adopt`. Imports little: every start imports it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager

from orlop_kernel.config import Config, Problem
from orlop_kernel.kinds import Context, Service
from orlop_sdk import Register, hookimpl

__all__ = ["AdoptPlugin", "at_start"]

_ROWS = "adoption"  # how the keys of `adopted` begin


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
        """There are none."""
        yield None

    @asynccontextmanager
    async def open(self, context: Context) -> AsyncIterator[Service]:
        """Opened before the engine. Raises `Conflict` while dockerd runs on the adopted root."""
        with ExitStack() as stack:
            if any(key.startswith(_ROWS) for key, _ in context.store.load("meta")):
                from .service import watch

                await watch(context.store, context.config.data_root, stack)
            yield Service()


def at_start(config: Config, words: Sequence[str]) -> int:
    """`orlopd --adopt PATH`, before the daemon starts: adopt, unless that was done. Returns 0 when the daemon may start."""
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
