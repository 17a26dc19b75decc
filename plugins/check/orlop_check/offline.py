"""The check without a daemon: `orlopd --check`. The data root and the exec root are locked, so that no daemon starts
meanwhile."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import msgspec
import trio

from orlop_kernel.config import Config
from orlop_kernel.store import lock_root
from orlop_sdk import OrlopError

from .owners import Owners
from .report import Report, report

__all__ = ["SOUND", "UNABLE", "UNSOUND", "main"]

SOUND, UNSOUND, UNABLE = 0, 1, 2


def main(config: Config, wanted: Collection[str]) -> int:
    """Print the report as JSON. Returns 0 if there are no errors and warnings, 1 if there are some, 2 if the check failed.
    `wanted`: "deep", "facts", "repair"."""
    try:
        with _alone(config):
            answer = trio.run(_check, config, wanted)
    except OrlopError as error:
        print(f"cannot check: {error}", file=sys.stderr)
        return UNABLE
    print(msgspec.json.format(msgspec.json.encode(answer), indent=2).decode())
    return SOUND if answer.ok else UNSOUND


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


async def _check(config: Config, wanted: Collection[str]) -> Report:
    deep = "deep" in wanted
    async with Owners.opened(config, {}) as owners:
        found, done = await owners.examine(deep=deep), None
        if "repair" in wanted:
            done = await owners.repair(found)
            found = await owners.examine(deep=deep)
        facts = await owners.facts(serving=False) if "facts" in wanted else None
        return report([finding for _, finding in found], done, facts)
