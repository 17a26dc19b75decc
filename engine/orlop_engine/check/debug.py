"""The engine's part of a debug bundle (an archive for bug reports). It maps file names to texts about state that only the
daemon or root can read.

The texts contain no environments, command lines or credentials.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import msgspec
import trio

from orlop_engine.config import Config
from orlop_engine.drivers import Drivers
from orlop_sdk import NetworkAudit, OrlopError
from orlop_sdk.smallfiles import read_tail

from .facts import Facts
from .rows import read

__all__ = ["collect"]


async def collect(config: Config, drivers: Drivers, facts: Facts) -> dict[str, str]:
    """The texts by file name. If a file cannot be made, its text is the error message."""
    found = await trio.to_thread.run_sync(_machine, config, facts)
    for name in sorted(facts.networks):
        found[f"network-{name}.txt"] = await _dump(drivers, name)
    return found


def _machine(config: Config, facts: Facts) -> dict[str, str]:
    """Facts about this host, as texts by file name. Blocks."""
    containers = read(facts.database)[0].containers.values()
    return {
        "mounts.txt": _lines(_mounts(facts)),
        "cgroups.txt": _lines(_cgroups(facts)),
        "processes.txt": _lines(f"{each.pid} {each.name} parent {each.parent}" for each in facts.processes),
        "monitors.json": _document({name: msgspec.to_builtins(run) for name, run in facts.runs.items()}),
        "containers.json": _document({record.id[:12]: msgspec.to_builtins(record.state) for record in containers}),
        "monitors.log": read_tail(os.path.join(config.exec_root, "monitors.log")),
    }


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _document(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value, enc_hook=repr), indent=1).decode() + "\n"


def _mounts(facts: Facts) -> Iterator[str]:
    with open("/proc/self/mountinfo", errors="replace") as file:
        yield from (
            line.rstrip() for line in file if facts.data_root in line or facts.exec_root in line or " cgroup" in line
        )


def _cgroups(facts: Facts) -> Iterator[str]:
    for directories in facts.cgroups.values():
        for directory, processes in directories.items():
            yield f"{directory} {processes}"


async def _dump(drivers: Drivers, name: str) -> str:
    try:
        driver = await drivers.network(name)
        return await driver.dump() if isinstance(driver, NetworkAudit) else "the driver has no such information\n"
    except OrlopError as error:
        return f"cannot be read: {error}\n"
