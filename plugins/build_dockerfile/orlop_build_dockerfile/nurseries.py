"""Nurseries that raise a single error instead of a group."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from orlop_build_dockerfile.contracts import BuildFailed

__all__ = ["leading_error", "nursery"]


def leading_error(error: BaseException) -> BaseException:
    """The error of a group that explains the failure: the first BuildFailed in the group, otherwise the first exception."""
    found: list[BaseException] = []

    def collect(each: BaseException) -> None:
        if isinstance(each, BaseExceptionGroup):
            for inner in each.exceptions:
                collect(inner)
        else:
            found.append(each)

    collect(error)
    return next((each for each in found if isinstance(each, BuildFailed)), found[0])


@asynccontextmanager
async def nursery() -> AsyncIterator[trio.Nursery]:
    """A nursery that raises only one of the errors of its tasks, not a group of errors."""
    try:
        async with trio.open_nursery() as opened:
            yield opened
    except ExceptionGroup as group:
        raise leading_error(group) from None
