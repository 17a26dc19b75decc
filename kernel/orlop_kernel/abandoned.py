"""Counts abandoned tasks: tasks that were cancelled but still run, because they are shielded or wait for a thread.

`trio.run` returns only when these tasks have ended. If tasks remain when the daemon stops, it therefore calls `os._exit`.
"""

from __future__ import annotations

__all__ = ["count", "running"]

_running = 0


def count(change: int) -> None:
    """`change` is 1 when a task is abandoned, -1 when an abandoned task ends. Call it on the event loop only."""
    global _running
    _running += change


def running() -> int:
    """The number of abandoned tasks that still run."""
    return _running
