"""Dumps the stacks of all tasks and threads as text, to diagnose a daemon that hangs.

SIGUSR1 writes the dump to a file; `GET /debug/tasks` returns it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from types import FrameType

import trio

__all__ = ["tasks", "threads", "where", "write"]


def _lines(task: trio.lowlevel.Task, depth: int) -> Iterator[str]:
    indent = "    " * depth
    yield f"{indent}task {task.name}\n"
    for frame, line in task.iter_await_frames():
        yield from _frame(frame, line, indent)
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield from _lines(child, depth + 1)


def _frame(frame: FrameType, line: int | None, indent: str) -> Iterator[str]:
    for text in traceback.format_list(traceback.StackSummary.extract(iter([(frame, line or 0)]))):
        yield from (f"{indent}  {part}\n" for part in text.rstrip().splitlines())


def tasks() -> Iterator[str]:
    """The tree of tasks, each with its stack, outermost frame first."""
    root = trio.lowlevel.current_root_task()
    yield from _lines(root, 0) if root else ()


def threads() -> Iterator[str]:
    """The stacks of the other threads: the store's thread, and worker threads, which run blocking calls of tasks."""
    frames, this = sys._current_frames(), threading.get_ident()
    for thread in threading.enumerate():
        if thread.ident is not None and thread.ident != this and (frame := frames.get(thread.ident)):
            yield f"thread {thread.name}\n"
            for one, line in reversed([*traceback.walk_stack(frame)]):
                yield from _frame(one, line, "")


def where(task: trio.lowlevel.Task) -> list[str]:
    """The task's stack, one frame per line, outermost first."""
    return [f"{frame.f_code.co_qualname} ({_short(frame)}:{line})" for frame, line in task.iter_await_frames()]


def _short(frame: FrameType) -> str:
    return "/".join(frame.f_code.co_filename.split("/")[-2:])


def write(directory: str) -> str:
    """Write the dump to a new file in `directory` and return its path."""
    path = os.path.join(directory, f"tasks-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.log")
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "w") as file:
        file.writelines(tasks())
        file.writelines(threads())
    return path
