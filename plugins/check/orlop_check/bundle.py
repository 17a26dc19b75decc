"""The daemon's part of a debug bundle: texts by file name, of state that only the daemon or root can read.

Contains no environments, command lines or credentials.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import trio

from orlop_engine.drivers import Drivers
from orlop_kernel import __version__
from orlop_kernel.config import Config
from orlop_kernel.store import SCHEMA_VERSION
from orlop_sdk import OrlopError

from .facts import Facts
from .rows import read

__all__ = ["collect"]

_TAIL = 256 << 10


async def collect(config: Config, drivers: Drivers, facts: Facts) -> dict[str, str]:
    """The texts. Where something cannot be read, the error takes its place."""
    found = await trio.to_thread.run_sync(_machine, config, facts)
    for name in sorted(facts.networks):
        found[f"network-{name}.txt"] = await _dump(drivers, name)
    if facts.serving:
        from orlop_kernel.boot import dump

        found["tasks.txt"] = "".join((*dump.tasks(), *dump.threads()))
    return found


def _machine(config: Config, facts: Facts) -> dict[str, str]:
    """Blocking."""
    found = {
        "kernel.txt": _lines(_kernel()),
        "mounts.txt": _lines(_mounts(facts)),
        "cgroups.txt": _lines(_cgroups(facts)),
        "processes.txt": _lines(f"{each.pid} {each.name} parent {each.parent}" for each in facts.processes),
        "monitors.json": _document({name: msgspec.to_builtins(run) for name, run in facts.runs.items()}),
        "database.json": _document(_database(facts)),
        "monitors.log": _tail(os.path.join(config.exec_root, "monitors.log")),
    }
    log = f"/proc/{facts.daemon_pid}/fd/2"
    if facts.daemon_pid and os.path.isfile(log):
        found["daemon.log"] = _tail(log)
    return found


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _document(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value, enc_hook=repr), indent=1).decode() + "\n"


def _kernel() -> Iterator[str]:
    yield f"orlop {__version__}"
    yield " ".join(os.uname())
    for path in ("/proc/version", "/etc/os-release", "/proc/meminfo", "/proc/loadavg", "/proc/sys/kernel/random/boot_id"):
        yield f"--- {path}"
        yield _tail(path, 2048).rstrip()


def _mounts(facts: Facts) -> Iterator[str]:
    with open("/proc/self/mountinfo", errors="replace") as file:
        yield from (
            line.rstrip() for line in file if facts.data_root in line or facts.exec_root in line or " cgroup" in line
        )


def _cgroups(facts: Facts) -> Iterator[str]:
    for directories in facts.cgroups.values():
        for directory, processes in directories.items():
            yield f"{directory} {processes}"


def _database(facts: Facts) -> dict[str, Any]:
    database = facts.database
    rows_read, _ = read(database)
    return {
        "schema": SCHEMA_VERSION,
        "tables": database.schema,
        "rows": {table: len(rows) for table, rows in database.rows.items()},
        "quarantined": [list(row) for row in database.quarantined],
        "damage": list(database.damage),
        "damaged_files": list(database.damaged_files),
        "containers": {record.id[:12]: msgspec.to_builtins(record.state) for record in rows_read.containers.values()},
    }


def _tail(path: str, size: int = _TAIL) -> str:
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size > size:
                file.seek(-size, os.SEEK_END)
            return file.read(size).decode("utf-8", "replace")
    except OSError as error:
        return f"cannot be had: {error.strerror}\n"


async def _dump(drivers: Drivers, name: str) -> str:
    try:
        driver: Any = await drivers.network(name)
        dump = getattr(driver, "dump", None)
        return str(await dump()) if dump is not None else "the driver tells nothing\n"
    except OrlopError as error:
        return f"cannot be had: {error}\n"
