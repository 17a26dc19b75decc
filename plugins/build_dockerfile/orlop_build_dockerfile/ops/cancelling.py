"""Blocking work on files that ends when the build does: threads cannot be interrupted, and there are few for such work."""

from __future__ import annotations

import contextlib

import trio

__all__ = ["checkpoint"]


def checkpoint() -> None:
    """In a thread whose task has been cancelled, raise `trio.Cancelled`."""
    with contextlib.suppress(RuntimeError):  # not in a thread of trio
        trio.from_thread.check_cancelled()
