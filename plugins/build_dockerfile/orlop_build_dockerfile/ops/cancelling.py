"""Lets blocking work on files end soon after its build was cancelled. This is needed because threads cannot be interrupted,
and there are only few threads for this work."""

from __future__ import annotations

import contextlib

import trio

__all__ = ["checkpoint"]


def checkpoint() -> None:
    """Raise `trio.Cancelled` if the task of this thread has been cancelled."""
    with contextlib.suppress(RuntimeError):  # this is no thread of trio
        trio.from_thread.check_cancelled()
