"""What every task of the daemon is waiting for, as text: the answer to SIGUSR1, for a report about a daemon that hangs."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Iterator

import trio

__all__ = ["write"]


def _lines(task: trio.lowlevel.Task, depth: int) -> Iterator[str]:
    indent = "    " * depth
    yield f"{indent}task {task.name}\n"
    for frame, line in task.iter_await_frames():
        for text in traceback.format_list(traceback.StackSummary.extract(iter([(frame, line)]))):
            yield from (f"{indent}  {part}\n" for part in text.rstrip().splitlines())
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield from _lines(child, depth + 1)


def write(directory: str) -> str:
    """Write the tree of tasks into a new file there and return its path."""
    root = trio.lowlevel.current_root_task()
    path = os.path.join(directory, f"tasks-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.log")
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "w") as file:
        file.writelines(_lines(root, 0) if root else ())
    return path
