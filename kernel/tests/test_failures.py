"""Handled errors keep no references to objects of the failed requests."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from orlop_kernel.failures import forget_frames
from orlop_kernel.http.messages import Answer, Response
from orlop_kernel.routing.dialect import PLAIN
from orlop_kernel.routing.router import Route, Router


class Body:
    """A large object to which a handler refers."""


async def raises(body: Body) -> None:
    error = ValueError("refused")  # this frame refers to its own exception
    raise error


async def has_a_cause(body: Body) -> None:
    try:
        await raises(body)
    except ValueError as cause:
        error = RuntimeError("failed")
        raise error from cause


async def in_a_nursery(body: Body) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(raises, body)
        await trio.sleep_forever()


@pytest.mark.parametrize("failing", [raises, has_a_cause, in_a_nursery])
def test_a_failed_request_leaves_no_reference_to_its_body(failing: Callable[[Body], Awaitable[None]]) -> None:
    left: list[weakref.ref[Body]] = []

    async def handler(call: Any) -> Answer:
        body = Body()
        left.append(weakref.ref(body))
        await failing(body)
        raise AssertionError

    async def main() -> None:
        class Asked:
            path, method = "/x", "GET"

        answer = await Router([Route("GET", "/x", handler)], PLAIN)(Asked())  # type: ignore[arg-type]
        assert isinstance(answer, Response) and answer.status == 500
        await trio.lowlevel.checkpoint()
        assert left[0]() is None, "without a garbage collection"

    gc.collect()
    gc.disable()
    try:
        trio.run(main)
    finally:
        gc.enable()


def test_forget_frames_ends_when_two_errors_are_each_others_context() -> None:
    """Python can make such a cycle, so `forget_frames` must not follow contexts for ever."""
    first, second = ValueError(), ValueError()
    first.__context__, second.__context__ = second, first
    forget_frames(first)
