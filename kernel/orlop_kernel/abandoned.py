"""Counts abandoned tasks: cancelled, but still running, because they are shielded or wait for a thread.

`trio.run` does not return while one runs. When all else is closed, the daemon therefore exits the process without them.
"""

from __future__ import annotations

__all__ = ["count", "running"]

_running = 0


def count(change: int) -> None:
    """`change` is 1 when a task is abandoned, -1 when it has ended after all. Call it on the event loop only."""
    global _running
    _running += change


def running() -> int:
    """The number of abandoned tasks that still run."""
    return _running
