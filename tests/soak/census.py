"""Counts the resources of a daemon, its zygote and its monitors by kind: everything that can leak.

The resources are read from outside (/proc, /sys, nft, the database file, the dump that SIGUSR1 requests), because a leaking
process does not know of the leak. Ids are removed from names, so that resources of one kind are counted together.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.integration.engine import Engine, until

__all__ = ["Census", "descendants", "descriptors", "grown", "take"]

Census = Counter[str]

_ID = re.compile(r"[0-9a-f]{12,}|(?<=[:\[/.-])\d+")
_NAMESPACES = ("mnt", "net", "pid", "ipc", "uts", "cgroup", "user")
_BOUNDED = frozenset({"events"})  # tables with a size limit of their own
_HISTORY = "history"  # the history of builds, which has its own size limit
_FILES = frozenset({"orlop.db-wal", "orlop.db-shm", "cache.db-wal", "cache.db-shm"})


_IDLE_THREAD = "Trio thread"
"""trio keeps a thread for ten seconds after its last use, and a census uses one. A working thread has another name."""


def _plain(text: str, home: str) -> str:
    return _ID.sub("*", text.replace(home, ""))


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def descendants(top: int) -> list[int]:
    """All descendants of a process, zombies included."""
    parents = {}
    for pid in _pids():
        with contextlib.suppress(OSError):
            parents[pid] = int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])
    found, level = [], {top}
    while level:
        level = {pid for pid, parent in parents.items() if parent in level}
        found += level
    return sorted(found)


def descriptors(pid: int) -> list[str]:
    """The targets of a process's open descriptors."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found


def _process(kind: str, pid: int, home: str) -> Iterator[str]:
    for target in descriptors(pid):
        yield f"{kind} fd {_plain(target, home)}"
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError):  # the process has ended
            name = Path(f"/proc/{pid}/task/{task}/comm").read_text().strip()
            if not name.startswith(_IDLE_THREAD):
                yield f"{kind} thread {name.rstrip('0123456789')}".rstrip()


def _processes(engine: Engine) -> Iterator[str]:
    assert engine.process is not None
    home, daemon = str(engine.home), engine.process.pid
    yield from _process("daemon", daemon, home)
    yield from _process("zygote", engine.zygote, home)
    namespaces = set()
    for pid in descendants(daemon):
        with contextlib.suppress(OSError):
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            yield f"process {name}" + (" (zombie)" if state == "Z" else "")
            if name == "orlop-monitor":
                yield from _process("monitor", pid, home)
            if name == "orlop-builder":
                yield from _process("builder", pid, home)
            namespaces |= {os.readlink(f"/proc/{pid}/ns/{kind}") for kind in _NAMESPACES}
    yield from (f"namespace {name.partition(':')[0]}" for name in namespaces)


def _tasks(engine: Engine) -> Iterator[str]:
    """trio's tasks, by name, from the daemon's own dump."""
    assert engine.process is not None
    for old in engine.exec_root.glob("tasks-*.log"):
        old.unlink()
    engine.process.send_signal(signal.SIGUSR1)
    written: list[Path] = until(
        lambda: [one for one in engine.exec_root.glob("tasks-*.log") if one.stat().st_size], "a dump"
    )
    text, before = written[0].read_text(), ""
    while text != before:  # the dump is still being written
        time.sleep(0.01)
        text, before = written[0].read_text(), text
    written[0].unlink()
    yield from (f"task {match[1]}" for match in re.finditer(r"^ *task (.+)$", text, re.MULTILINE))


def _tree(kind: str, top: Path) -> Iterator[str]:
    for directory, names, files in os.walk(top):
        if _HISTORY in names:
            names.remove(_HISTORY)
        for name in (*names, *files):
            if name not in _FILES:
                yield f"{kind} {_plain(os.path.relpath(os.path.join(directory, name), top), '')}"


def _data(engine: Engine) -> Iterator[str]:
    """Count files and rows. Directories of layers and of containers' root file systems are counted, but not their
    content."""
    for name in os.listdir(engine.data_root):
        top = engine.data_root / name
        if name in ("overlay2", "vfs"):
            yield from (f"{name}/{one if len(one) < 12 else '*'}" for one in os.listdir(top))
            if (top / "l").is_dir():
                yield from ["overlay2/l/*"] * len(os.listdir(top / "l"))
        elif top.is_dir():
            yield from _tree(f"data {name}", top)
    with contextlib.closing(sqlite3.connect(f"file:{engine.data_root}/orlop.db?mode=ro", uri=True)) as store:
        for (table,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            if table not in _BOUNDED:
                yield from [f"row {table}"] * store.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0]


def _kernel(engine: Engine) -> Iterator[str]:
    """Resources of this daemon in the host's kernel: mounts, links, rules, cgroups."""
    home, instance = str(engine.home), engine.bridge.removeprefix("orlop-")
    assert engine.process is not None
    for line in Path(f"/proc/{engine.process.pid}/mountinfo").read_text().splitlines():
        if home in line:
            yield f"mount {_plain(line.split()[4], home)}"
    for link in os.listdir("/sys/class/net"):
        if instance in link:
            yield f"link {link}"
            ports = Path(f"/sys/class/net/{link}/brif")
            yield from [f"link on {link}"] * (len(os.listdir(ports)) if ports.is_dir() else 0)
    listed = subprocess.run(["nft", "-j", "list", "ruleset"], capture_output=True, check=True).stdout
    for item in json.loads(listed)["nftables"]:
        for kind, what in item.items():
            if kind != "metainfo" and instance in (what.get("table") or what.get("name") or ""):
                yield f"nft {kind}"
                yield from [f"nft element of {what.get('name')}"] * len(what.get("elem", ()))
    parent = engine.cgroup_parent
    for top in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()):
        if (top / parent).is_dir():
            yield from (f"cgroup {top.name}" for _ in os.walk(top / parent))


def take(engine: Engine) -> Census:
    """Count everything now."""
    found: Census = Counter(_kernel(engine))
    found.update(_processes(engine))
    found.update(_tasks(engine))
    found.update(_tree("run", engine.exec_root))
    found.update(_data(engine))
    found["events subscription"] = engine.api("GET", "/info")[1]["NEventsListener"]
    return found


def grown(before: Census, now: Census) -> dict[str, tuple[int, int]]:
    """The counts that have grown, with both values."""
    return {key: (before[key], count) for key, count in sorted(now.items()) if count > before[key]}


def groups(census: Census) -> Iterable[tuple[str, int]]:
    """Totals for the printed table."""
    kinds = (
        "daemon fd",
        "daemon thread",
        "task",
        "zygote fd",
        "zygote thread",
        "monitor fd",
        "process",
        "namespace",
        "mount",
    )
    kinds += ("link", "nft", "cgroup", "run", "data", "overlay2", "row", "events subscription")
    for kind in kinds:
        yield kind, sum(count for key, count in census.items() if key.startswith((f"{kind} ", f"{kind}/")) or key == kind)
