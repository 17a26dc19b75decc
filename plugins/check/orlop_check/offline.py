"""The check without a daemon: `orlopd --check`. Holds the locks of both roots, so that no daemon starts meanwhile."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import trio

from orlop_engine.drivers import Drivers
from orlop_kernel.config import Config
from orlop_kernel.store import lock_root
from orlop_sdk import OrlopError

from . import bundle
from .compare import compare
from .findings import report
from .gather import gather
from .repair import Repairs

__all__ = ["SOUND", "UNABLE", "UNSOUND", "main"]

SOUND, UNSOUND, UNABLE = 0, 1, 2


def main(config: Config, wanted: Collection[str]) -> int:
    """Print the report as JSON. Returns 0 when all is sound, 1 when not, 2 when the check failed. `wanted`: "deep", "facts",
    "repair"."""
    try:
        with _alone(config):
            answer = trio.run(_check, config, wanted)
    except OrlopError as error:
        print(f"cannot check: {error}", file=sys.stderr)
        return UNABLE
    print(msgspec.json.format(msgspec.json.encode(answer), indent=2).decode())
    return SOUND if answer["ok"] else UNSOUND


@contextmanager
def _alone(config: Config) -> Iterator[None]:
    held = []
    try:
        for root, what in ((config.data_root, "data root"), (config.exec_root, "exec root")):
            if os.path.isdir(root):
                held.append(lock_root(root, what))
        yield
    finally:
        for lock in held:
            os.close(lock)


async def _check(config: Config, wanted: Collection[str]) -> dict[str, Any]:
    drivers, storage, deep = Drivers(config), config.effective_storage_driver, "deep" in wanted
    try:
        facts = await gather(config, drivers, storage, serving=False, deep=deep)
        findings, done = compare(facts), None
        if "repair" in wanted:
            done = await Repairs(config, drivers, storage).carry_out(findings)
            facts = await gather(config, drivers, storage, serving=False, deep=deep)
            findings = compare(facts)
        answer = report(findings, done)
        if "facts" in wanted:
            answer["facts"] = await bundle.collect(config, drivers, facts)
        return answer
    finally:
        await drivers.close()
