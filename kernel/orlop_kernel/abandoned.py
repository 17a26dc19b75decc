"""Tasks that were abandoned: cancelled, but shielded or waiting for a thread, and nobody waits for them any more.

`trio.run` does not return while one runs. The daemon asks here when all else is closed, and leaves without them.
"""

from __future__ import annotations

__all__ = ["count", "running"]

_running = 0


def count(change: int) -> None:
    """One more is abandoned (1), or one has ended after all (-1). On the event loop only."""
    global _running
    _running += change


def running() -> int:
    """How many there are now."""
    return _running
