"""Kills the orphans that a subreaper has adopted. Children are found by reading the parent of every process in /proc,
because the kernel's list of children (CONFIG_PROC_CHILDREN) is optional."""

from __future__ import annotations

import os
import signal
from collections.abc import Container

from orlop_sdk import smallfiles

__all__ = ["kill_child_of_file", "kill_children"]


def _parent(pid: str) -> tuple[int, bytes]:
    try:
        fields = smallfiles.read(f"/proc/{pid}/stat").rpartition(b") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0, b""
    return int(fields[1]), fields[0]


def kill_child_of_file(path: str) -> None:
    """Kill the process whose pid a runtime wrote to the file `path`, if it is a child of this process. If it is not a child,
    the kernel has reused the pid."""
    try:
        pid = smallfiles.read(path).decode().strip()
        if pid.isdecimal() and _parent(pid)[0] == os.getpid():
            os.kill(int(pid), signal.SIGKILL)
    except (OSError, ValueError):
        pass  # the file does not exist, or the process is dead


def kill_children(keep: Container[int]) -> bool:
    """Kill all children that are not in `keep`. Returns true if there were none. The children of a killed process become
    children of this process, so call this function until it returns true."""
    me, none = os.getpid(), True
    for name in os.listdir("/proc"):
        if not name.isdecimal() or int(name) in keep:
            continue
        parent, state = _parent(name)
        if parent == me and state != b"Z":
            none = False
            try:
                os.kill(int(name), signal.SIGKILL)
            except ProcessLookupError:
                pass
    return none
