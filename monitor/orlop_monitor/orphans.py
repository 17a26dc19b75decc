"""Children that a subreaper was handed: found by asking every process for its parent (the kernel's own list of children is
a build option)."""

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
    """SIGKILL to the process that a runtime wrote the id of, if it is a child of ours: no stranger by now."""
    try:
        pid = smallfiles.read(path).decode().strip()
        if pid.isdecimal() and _parent(pid)[0] == os.getpid():
            os.kill(int(pid), signal.SIGKILL)
    except (OSError, ValueError):
        pass  # there is none, or it is dead


def kill_children(keep: Container[int]) -> bool:
    """SIGKILL to each of our children that is not in `keep`. True when there was none: theirs become ours as they die, so
    call again until then."""
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
