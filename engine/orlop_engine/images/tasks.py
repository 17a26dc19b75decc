"""Runs tasks in parallel, and raises a single error for all of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

import trio

from orlop_sdk import OrlopError

__all__ = ["run_all"]


async def run_all(tasks: Iterable[Callable[[], Awaitable[None]]]) -> None:
    """Run all tasks in parallel. The first error cancels the other tasks, and is raised as a single error, not in an
    exception group."""
    failures: list[OrlopError] = []

    async def run(task: Callable[[], Awaitable[None]], scope: trio.CancelScope) -> None:
        try:
            await task()
        except OrlopError as error:
            failures.append(error)
            scope.cancel()

    async with trio.open_nursery() as nursery:
        for task in tasks:
            nursery.start_soon(run, task, nursery.cancel_scope)
    if failures:
        raise failures[0]
