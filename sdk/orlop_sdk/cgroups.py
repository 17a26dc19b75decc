"""Finds, kills and removes the cgroups of a container, and reads their state. Supports cgroup v1, cgroup v2, and hosts that
use both.

Callers kill every process in the directories that these functions return. Therefore these functions never return a root
cgroup, or a cgroup that contains the calling process.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator, Sequence

from orlop_sdk import mountinfo, smallfiles

from .mountinfo import MountEntry

__all__ = ["directories", "is_frozen", "kill", "named", "oom_file", "oom_kills", "oom_stopped", "remove"]


def _read(path: str) -> str:
    try:
        return smallfiles.read(path).decode()
    except OSError:
        return ""  # the process or the cgroup no longer exists


def _write(path: str, text: str) -> bool:
    try:
        smallfiles.write(path, text.encode())
    except OSError:
        return False
    return True


def memberships(content: str) -> dict[frozenset[str], str]:
    """Parse /proc/PID/cgroup. The result maps each set of controllers to a path. The empty set means cgroup v2."""
    table = {}
    for line in content.splitlines():
        _, controllers, path = line.split(":", 2)
        table[frozenset(controllers.split(",")) - {""}] = path
    return table


def _hierarchies(
    mounts: Iterable[MountEntry], table: dict[frozenset[str], str]
) -> Iterator[tuple[MountEntry, frozenset[str]]]:
    for mount in mounts:
        if mount.type == "cgroup2":
            yield mount, frozenset()
        elif mount.type == "cgroup":
            for controllers in table:
                if controllers and controllers <= set(mount.options):
                    yield mount, controllers


def _safe(path: str, own: str) -> bool:
    return path.strip("/") != "" and not f"{own}/".startswith(f"{path}/")


def _directory(mount: MountEntry, path: str) -> str:
    if mount.root != "/" and f"{path}/".startswith(f"{mount.root}/"):
        path = path[len(mount.root) :]
    return mount.path + path


def select(theirs: str, ours: str, mounts: Sequence[MountEntry], container_id: str) -> tuple[str, ...]:
    """The cgroup directories of a process, from its /proc/PID/cgroup (`theirs`) and the caller's (`ours`). A path is cut
    after the component that contains the container's id, because an init such as systemd moves itself to a child of the
    container's cgroup."""
    found: dict[str, None] = {}
    own = memberships(ours)
    table = memberships(theirs)
    for mount, controllers in _hierarchies(mounts, table):
        path = table.get(controllers, "/")
        parts = path.split("/")
        for index, part in enumerate(parts):
            if container_id and container_id in part:
                path = "/".join(parts[: index + 1])
                break
        if _safe(path, own.get(controllers, "/")):
            found[_directory(mount, path)] = None
    return tuple(found)


def directories(pid: int, container_id: str) -> tuple[str, ...]:
    """The cgroup directories of a running process. For a zombie, v1 reports no cgroups: use `named`."""
    return select(_read(f"/proc/{pid}/cgroup"), _read("/proc/self/cgroup"), mountinfo.read(), container_id)


def relative(cgroups_path: str) -> str:
    """Convert an OCI `linux.cgroupsPath`, plain or systemd's `slice:prefix:name`, to a path below a hierarchy's root."""
    if ":" not in cgroups_path:
        return os.path.normpath("/" + cgroups_path.lstrip("/"))
    slice_name, prefix, name = cgroups_path.split(":", 2)
    parts = (slice_name.removesuffix(".slice") or "system").strip("-").split("-")
    nested = ["-".join(parts[: n + 1]) + ".slice" for n in range(len(parts)) if parts[n]]
    unit = name if name.endswith(".slice") else f"{prefix}-{name}.scope" if prefix else f"{name}.scope"
    return "/" + "/".join([*nested, unit])


def named(cgroups_path: str) -> tuple[str, ...]:
    """The existing cgroup directories of an OCI `linux.cgroupsPath`. Use this function for a process that has ended:
    `directories` cannot read its cgroups any more."""
    if not cgroups_path:
        return ()
    path, own = relative(cgroups_path), memberships(_read("/proc/self/cgroup"))
    found = [_directory(mount, path) for mount, key in _hierarchies(mountinfo.read(), own) if _safe(path, own.get(key, "/"))]
    return tuple(directory for directory in dict.fromkeys(found) if os.path.isdir(directory))


def _pids(directory: str) -> list[int]:
    return [int(word) for word in _read(f"{directory}/cgroup.procs").split()]


def _kill_tree(top: str) -> bool:
    empty = True
    for directory, _, _ in os.walk(top):
        for pid in _pids(directory):
            if pid <= 0 or pid == os.getpid():
                # The kernel shows a process of another pid namespace as pid 0. Such a process is killed through its own
                # cgroups
                continue
            empty = False
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        # In v1, a killed process dies only after it is thawed. In v2, it dies while it is frozen, except on older kernels.
        if os.path.exists(f"{directory}/freezer.state"):
            _write(f"{directory}/freezer.state", "THAWED")
        elif not empty and os.path.exists(f"{directory}/cgroup.freeze"):
            _write(f"{directory}/cgroup.freeze", "0")
    return empty


def kill(cgroups: Iterable[str]) -> bool:
    """Send SIGKILL to every process in these cgroups. Returns true if the cgroups were empty. Otherwise call the function
    again, a little later."""
    empty = True
    for directory in cgroups:
        if _write(f"{directory}/cgroup.kill", "1"):
            empty = "populated 1" not in _read(f"{directory}/cgroup.events") and empty
        else:
            empty = _kill_tree(directory) and empty
    return empty


def remove(cgroups: Iterable[str]) -> bool:
    """Remove the empty directories of these cgroups. Returns true if no directory is left. Otherwise call the function
    again: a killed process leaves its cgroup after a delay."""
    gone = True
    for top in cgroups:
        for directory, _, _ in os.walk(top, topdown=False):
            try:
                os.rmdir(directory)
            except OSError:
                pass
        gone = gone and not os.path.isdir(top)
    return gone


def is_frozen(cgroups: Iterable[str]) -> bool:
    """Whether the processes in these cgroups are frozen, like the processes of a paused container."""
    every = tuple(cgroups)
    # In v1, the freezer controller is mounted below a directory named "freezer", and runtimes use it if it exists. The other
    # ten directories of each container are not read, so that the daemon starts faster.
    freezers = [directory for directory in every if "freezer" in directory] or every
    return any(
        _read(f"{directory}/cgroup.freeze").strip() == "1"
        or _read(f"{directory}/freezer.state").strip() in ("FROZEN", "FREEZING")
        for directory in freezers
    )


def oom_file(cgroups: Iterable[str]) -> str:
    """The path of the file that counts OOM kills: `memory.events` in v2, `memory.oom_control` in v1; "" when neither
    exists."""
    for directory in cgroups:
        for name in ("memory.events", "memory.oom_control"):
            if os.path.exists(f"{directory}/{name}"):
                return f"{directory}/{name}"
    return ""


def _oom_fields(file: str) -> dict[str, str]:
    lines = _read(file).splitlines() if file else ()
    return {name: value for name, _, value in (line.partition(" ") for line in lines)}


def oom_kills(file: str) -> int:
    """The number of OOM kills so far, from an `oom_file`."""
    return int(_oom_fields(file).get("oom_kill", 0))


def oom_stopped(file: str) -> bool:
    """Whether processes are blocked for lack of memory because the OOM killer is disabled (v1 `oom_kill_disable`)."""
    fields = _oom_fields(file)
    return fields.get("oom_kill_disable") == fields.get("under_oom") == "1"
