"""The state of the host, as text that is the same in every run. Names replace the ids of objects, `*` replaces random parts,
and `IP` and `PORT` replace allocated addresses and ports. States are compared as multisets.

This module does not rely on Orlop's own check, whose findings are only added. It walks the roots, reads /proc and /sys,
calls nft and opens the database file.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import subprocess
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.integration.engine import Engine

__all__ = ["HostState", "difference", "is_settled", "look", "relaxed", "without_cache", "without_fetched"]

HostState = Counter[str]

# These directories are not walked: files of images and containers, and files of the kernel below a work directory.
_OPAQUE = frozenset({"diff", "work", "_data"})
# Files that do not depend on a crash: written with a delay, derived from rows, or created once and kept
_UNSTEADY = re.compile(
    "|".join(
        (
            r"/orlop\.db",
            r"/monitors\.log",
            r"/containers/<[^>]*>/",
            r"/run/run/<[^>]*>/(runtime\.log|init\.pid|stats|names$)",
            r"/volumes/\.(trash|new)$",
            r"/run/network/names(/<net [^>]*>)?$",
            r"/run/network-drivers(/macvlan)?$",  # the driver's directory, made when the driver is loaded
            r"/data/build(/cache\.db(-wal|-shm)?|/worker-id|/cachemounts|/contexts|/history(/.*)?)?$",
            r"/run/(builder\.log|build(/steps)?|files)$",
        )
    )
)
_IDS = re.compile(
    r"\b[0-9a-f]{64}\b|\b[0-9a-f]{32}\b|(?<=/l/)[A-Z0-9]{26}$|(?<=\.json\.)\d+$|(?<=/erofs/)[0-9a-f]{20}\b|(?<=build-)(?:new-)?[0-9a-f]{24}\b"
)
_IPV4 = re.compile(r"\b\d+\.\d+\.\d+\.\d+\b(?!/)")
_IPV4_NET = re.compile(r"\b\d+\.\d+\.\d+\.\d+/\d+\b")
_PORT = re.compile(r"\b[2-6]\d{4}\b")
_PREFIX = re.compile(r'"len": \d+')
_TABLES = ("builds", "containers", "images", "networks", "volumes", "execs", "intents", "quarantine")


class _Names:
    """Maps ids of objects in the API to their names."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.containers = [_inspect(engine, item["Id"]) for item in _get(engine, "/containers/json?all=1")]
        self.networks = _get(engine, "/networks")
        self.volumes = _get(engine, "/volumes")["Volumes"] or []
        self.images = _get(engine, "/images/json?all=1")
        known: dict[str, str] = {}
        for item in filter(None, self.containers):
            name = item["Name"].lstrip("/")
            known[item["Id"]] = known[item["Id"][:32]] = f"<{name}>"
        for item in self.networks:
            known[item["Id"]], known[item["Id"][:12]] = f"<net {item['Name']}>", f"<net {item['Name']}>"
        self._known = known
        self._pattern = re.compile("|".join(sorted(map(re.escape, known), key=len, reverse=True)) or r"\0")

    def __call__(self, text: str, *, ids_only: bool = False) -> str:
        text = text.replace(str(self.engine.home), "~").replace(self.engine._derived.instance, "INSTANCE")
        text = text if ids_only else self._pattern.sub(lambda found: self._known[found[0]], text)
        return _IDS.sub("*", text)


def _get(engine: Engine, path: str) -> Any:
    status, found = engine.api("GET", path)
    assert status == 200, (path, status, found)
    return found


def _inspect(engine: Engine, container: str) -> Any:
    status, found = engine.api("GET", f"/containers/{container}/json")
    return found if status == 200 else None


def look(engine: Engine) -> HostState:
    """The complete state of this engine. Its daemon must answer."""
    names = _Names(engine)
    found: HostState = Counter()
    for part in (_objects(names), _files(names), _mounts(names), _links(names), _rules(names), _cgroups(names),
                 _processes(names), _rows(names), _check(names)):  # fmt: skip
        found.update(part)
    return found


def _objects(names: _Names) -> Iterator[str]:
    for item in filter(None, names.containers):
        state = item["State"]
        networks = ",".join(sorted(item["NetworkSettings"]["Networks"] or {}))
        yield f"container {names(item['Name'])} {state['Status']} {state['ExitCode']} [{networks}]"
        if state["Running"] and not _lives(state["Pid"]):
            yield f"container {item['Name']} is said to run, and pid {state['Pid']} is dead"
        if state["Running"]:
            yield f"route of {item['Name']} by [{','.join(_default_routes(state['Pid']))}]"
    for item in names.networks:
        full = _get(names.engine, f"/networks/{item['Id']}")
        yield f"network {item['Name']} [{','.join(sorted(member['Name'] for member in full['Containers'].values()))}]"
    yield from (names(f"volume {item['Name']}") for item in names.volumes)
    for item in names.images:
        yield f"image {','.join(sorted(item['RepoTags'] or ['untagged']))}"


def _lives(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def _default_routes(pid: int) -> Iterator[str]:
    """The interfaces of a process's default routes."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/net/route").read_text().splitlines()[1:]:
            link, destination, *_ = line.split()
            if destination == "00000000":
                yield link


def _files(names: _Names) -> Iterator[str]:
    docker = names.engine.home / "docker"  # has the same name before and after an adoption
    for root in (names.engine.data_root, names.engine.exec_root, docker):
        for directory, inner, files in os.walk(root):
            inner[:] = [name for name in inner if name not in _OPAQUE]
            for name in (*inner, *files):
                path = names(os.path.join(directory, name), ids_only=root == docker)
                if not _UNSTEADY.search(path):
                    yield f"file {path}"


def _mounts(names: _Names) -> Iterator[str]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if str(names.engine.home) in line:
            yield f"mount {names(line.split()[4])}"


def _links(names: _Names) -> Iterator[str]:
    bridges = {names.engine.bridge, *(f"br-{item['Id'][:12]}" for item in names.networks)}
    for link in sorted(os.listdir("/sys/class/net")):
        master = Path(f"/sys/class/net/{link}/master")
        with contextlib.suppress(OSError):
            if master.is_symlink() and (bridge := os.path.basename(os.readlink(master))) in bridges:
                yield f"link veth* of {names(bridge)}"
        if link in bridges:
            yield f"link {names(link)}"
        elif names.engine._derived.instance in (alias := _alias(link)):
            yield f"link marked {names(alias).rsplit(':', 1)[0]}"
        elif not alias and _group(link) == zlib.crc32(f"orlop-{names.engine._derived.instance}".encode()) & 0x7FFF_FFFF | 1:
            yield "link half made"


def _alias(link: str) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/sys/class/net/{link}/ifalias").read_text().strip()
    return ""


def _group(link: str) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/sys/class/net/{link}/netdev_group").read_text())
    return 0


def _rules(names: _Names) -> Iterator[str]:
    instance = names.engine._derived.instance
    listed = subprocess.run(["nft", "-j", "list", "ruleset"], capture_output=True, check=True).stdout
    for entry in json.loads(listed)["nftables"]:
        ((kind, item),) = entry.items()
        if kind == "metainfo":
            continue
        ours = instance in item.get("table", item.get("name", "")) if kind != "table" else instance in item["name"]
        if not ours:
            if instance in item.get("comment", ""):
                yield f"rule in {item['chain']}: {names(item['comment'])}"
            continue
        if kind in ("set", "map"):
            for element in item.get("elem", ()):
                yield f"nft {kind} {item['name']}: {_plain(names(json.dumps(element)))}"
        elif kind == "rule":
            yield f"nft rule in {item['chain']}: {_plain(names(json.dumps(item['expr'])))}"
        else:
            yield f"nft {kind} {names(item['name'])}"


def _plain(text: str) -> str:
    return _PREFIX.sub('"len": LEN', _PORT.sub("PORT", _IPV4.sub("IP", _IPV4_NET.sub("NET", text))))


def _cgroups(names: _Names) -> Iterator[str]:
    parent = names.engine.cgroup_parent
    roots = Path("/sys/fs/cgroup")
    for top in (roots / parent, *sorted(roots.glob(f"*/{parent}"))):
        for directory, _, _ in os.walk(top):
            yield f"cgroup {names(directory)}"


def _processes(names: _Names) -> Iterator[str]:
    """Processes that have files of this engine open, except processes of containers. A zygote without children must be a
    child of the daemon."""
    daemon = names.engine.process.pid if names.engine.process else 0
    parents: dict[int, int] = {}
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with contextlib.suppress(OSError, IndexError):
            stat = Path(f"/proc/{pid}/stat").read_text()
            parents[pid] = int(stat.rpartition(") ")[2].split()[1])
    busy = set(parents.values())
    for pid, parent in parents.items():
        if pid in (os.getpid(), daemon):
            continue
        try:
            held = any(
                os.readlink(f"/proc/{pid}/fd/{fd}").startswith(str(names.engine.home))
                for fd in os.listdir(f"/proc/{pid}/fd")
            )
            comm = Path(f"/proc/{pid}/comm").read_text().strip()
            title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        if not held and str(names.engine.home) not in title:
            continue
        if comm == "orlop-zygote":
            if parent != daemon and pid not in busy:
                yield "process of a zygote without daemon and children"
        elif "orlop_build_dockerfile" in title:
            if parent != daemon:
                yield "process of a builder without daemon"
        else:
            yield f"process {names(title)[:80]}"


def _rows(names: _Names) -> Iterator[str]:
    with contextlib.closing(sqlite3.connect(f"file:{names.engine.data_root}/orlop.db?mode=ro", uri=True)) as database:
        for table in _TABLES:
            for (key,) in database.execute(f"SELECT key FROM {table}"):
                yield f"row {table} {names(key)}"


def _check(names: _Names) -> Iterator[str]:
    """The findings of Orlop's consistency check, if it is available."""
    status, found = names.engine.api("GET", "/orlop/check")
    if status == 200:
        yield from (f"check: {names(json.dumps(item, sort_keys=True))}" for item in found.get("Findings") or ())


def is_settled(found: HostState) -> bool:
    """Whether every monitor has a running container. This is false while a monitor is prepared for a start, or cleans up."""
    monitors = {line.rpartition(" ")[2] for line in found if line.startswith("process orlop-monitor")}
    running = {f"<{name}>" for name in re.findall(r"^container /(\S+) (?:running|paused)", "\n".join(found), re.MULTILINE)}
    return monitors == running


def relaxed(found: HostState) -> HostState:
    """The state without the reasons why containers do not run, for points that kill the monitor."""
    return Counter(
        re.sub(r"^(container \S+) (created|exited) .*", r"\1 down", line)
        for line in found.elements()
    )  # fmt: skip


def without_fetched(found: HostState) -> HostState:
    """The state without content that a pull has fetched and unpacked. (The next pull uses this content.)"""
    return _without(found, rf"file ~/data/(content/(blobs/sha256|ingest)/|{_LAYERS})|row images resume:")


def without_cache(found: HostState) -> HostState:
    """The state without the build cache, and without layers that the cache shares with images."""
    return _without(found, rf"file ~/data/({_LAYERS}|build/)|row builds ")


_LAYERS = r"(overlay2|erofs)/(\*|l/|\.orlop/committed/)"


def _without(found: HostState, pattern: str) -> HostState:
    kept = re.compile(pattern)
    return Counter(line for line in found.elements() if not kept.match(line))


def difference(found: HostState, wanted: HostState) -> list[str]:
    """The difference as text, a line for each item."""
    return [f"unexpected: {line}" for line in (found - wanted).elements()] + [
        f"missing: {line}" for line in (wanted - found).elements()
    ]
