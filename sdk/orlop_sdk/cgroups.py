"""The cgroups of a container: which they are, what they say about memory, and how to empty them.

v1, v2 and both at once. Every directory returned here may be emptied by killing, so the root and whatever the caller itself
lives in are never among them.
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
        return ""  # gone with its process or its cgroup


def _write(path: str, text: str) -> bool:
    try:
        smallfiles.write(path, text.encode())
    except OSError:
        return False
    return True


def memberships(content: str) -> dict[frozenset[str], str]:
    """/proc/PID/cgroup: path by set of controllers; the empty set is v2."""
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
    """The directories of a process, from its /proc/PID/cgroup and our own. A path is cut after the component that holds
    the container's id: an init such as systemd moves itself further down at once."""
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
    """The cgroup directories of a living process. v1 tells nothing of one that is dead already: see `named`."""
    return select(_read(f"/proc/{pid}/cgroup"), _read("/proc/self/cgroup"), mountinfo.read(), container_id)


def relative(cgroups_path: str) -> str:
    """The path below a hierarchy's root of an OCI `linux.cgroupsPath`: plain, or systemd's `slice:prefix:name`."""
    if ":" not in cgroups_path:
        return os.path.normpath("/" + cgroups_path.lstrip("/"))
    slice_name, prefix, name = cgroups_path.split(":", 2)
    parts = (slice_name.removesuffix(".slice") or "system").strip("-").split("-")
    nested = ["-".join(parts[: n + 1]) + ".slice" for n in range(len(parts)) if parts[n]]
    unit = name if name.endswith(".slice") else f"{prefix}-{name}.scope" if prefix else f"{name}.scope"
    return "/" + "/".join([*nested, unit])


def named(cgroups_path: str) -> tuple[str, ...]:
    """The existing directories of that OCI `linux.cgroupsPath`, for a process that ended before it could be asked."""
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
                continue  # 0: a process of another pid namespace, which its own cgroups will tell us
            empty = False
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        # A frozen v1 process does not die before it thaws; in v2 it does, but older kernels want to be told too.
        if os.path.exists(f"{directory}/freezer.state"):
            _write(f"{directory}/freezer.state", "THAWED")
        elif not empty and os.path.exists(f"{directory}/cgroup.freeze"):
            _write(f"{directory}/cgroup.freeze", "0")
    return empty


def kill(cgroups: Iterable[str]) -> bool:
    """One round of SIGKILL for everything in there. True when nothing was left: call again, a little later, until then."""
    empty = True
    for directory in cgroups:
        if _write(f"{directory}/cgroup.kill", "1"):
            empty = "populated 1" not in _read(f"{directory}/cgroup.events") and empty
        else:
            empty = _kill_tree(directory) and empty
    return empty


def remove(cgroups: Iterable[str]) -> bool:
    """Remove what is empty. True when nothing of it is left: a process that was just killed may take a moment to leave."""
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
    """Whether the processes in there are held: a paused container, where the runtime pauses by cgroup."""
    every = tuple(cgroups)
    # v1 mounts that controller below a directory of its name, and runtimes use it where it is there: a boot asks about each
    # container, of ten directories and more
    freezers = [directory for directory in every if "freezer" in directory] or every
    return any(
        _read(f"{directory}/cgroup.freeze").strip() == "1"
        or _read(f"{directory}/freezer.state").strip() in ("FROZEN", "FREEZING")
        for directory in freezers
    )


def oom_file(cgroups: Iterable[str]) -> str:
    """The file that counts the kernel's kills for memory: v2 `memory.events`, v1 `memory.oom_control`; "" without one."""
    for directory in cgroups:
        for name in ("memory.events", "memory.oom_control"):
            if os.path.exists(f"{directory}/{name}"):
                return f"{directory}/{name}"
    return ""


def _oom_fields(file: str) -> dict[str, str]:
    lines = _read(file).splitlines() if file else ()
    return {name: value for name, _, value in (line.partition(" ") for line in lines)}


def oom_kills(file: str) -> int:
    """How many processes the kernel killed for memory there so far."""
    return int(_oom_fields(file).get("oom_kill", 0))


def oom_stopped(file: str) -> bool:
    """Whether processes there wait for memory because the kernel may not kill any (v1, `oom_kill_disable`)."""
    fields = _oom_fields(file)
    return fields.get("oom_kill_disable") == fields.get("under_oom") == "1"
