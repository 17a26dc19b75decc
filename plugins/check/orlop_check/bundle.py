"""The daemon's part of a debug bundle (an archive for bug reports). It maps file names to texts about the host, the database
and the daemon. Other plugins add texts about their state.

The texts contain no environments, command lines or credentials.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec

from orlop_kernel import __version__
from orlop_kernel.store import SCHEMA_VERSION, Examined
from orlop_sdk.smallfiles import read_tail

__all__ = ["host", "tasks"]


def host(database: Examined, *, serving: bool) -> dict[str, str]:
    """The texts that can be read on a worker thread. If a file cannot be read, its text is the error message."""
    found = {
        "kernel.txt": "".join(f"{line}\n" for line in _kernel()),
        "database.json": msgspec.json.format(msgspec.json.encode(_database(database)), indent=1).decode() + "\n",
    }
    log = "/proc/self/fd/2"
    if serving and os.path.isfile(log):
        found["daemon.log"] = read_tail(log)
    return found


def tasks() -> dict[str, str]:
    """The tasks and threads of this daemon. Call this function on the event loop."""
    from orlop_kernel.boot import dump

    return {"tasks.txt": "".join((*dump.tasks(), *dump.threads()))}


def _kernel() -> Iterator[str]:
    yield f"orlop {__version__}"
    yield " ".join(os.uname())
    for path in ("/proc/version", "/etc/os-release", "/proc/meminfo", "/proc/loadavg", "/proc/sys/kernel/random/boot_id"):
        yield f"--- {path}"
        yield read_tail(path, 2048).rstrip()


def _database(database: Examined) -> dict[str, object]:
    return {
        "schema": SCHEMA_VERSION,
        "tables": database.schema,
        "rows": {table: len(rows) for table, rows in database.rows.items()},
        "quarantined": [list(row) for row in database.quarantined],
        "damage": list(database.damage),
        "damaged_files": list(database.damaged_files),
    }
