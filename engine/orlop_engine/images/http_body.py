"""Reads the body of an HTTP response in pieces. The caller may stop before the end."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import suppress

import httpx
import trio

__all__ = ["body"]


async def body(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """The bytes of the body as they were sent, not decoded. Closes the response at the end. Use this generator with
    `aclosing`.

    httpx reads through five nested generators and closes only the outermost generator. When the other generators are
    garbage-collected, trio logs warnings. To avoid these warnings, this function closes the connection and then reads once
    more, so that every generator ends with an error.
    """
    pieces = response.aiter_raw()
    try:
        async for piece in pieces:
            yield piece
    finally:
        with trio.move_on_after(5, shield=True):
            await response.aclose()
            with suppress(StopAsyncIteration, httpx.HTTPError, httpx.StreamError):
                while True:
                    await anext(pieces)
