"""The body of an HTTP answer, piece by piece, that may be left early."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import suppress

import httpx
import trio

__all__ = ["body"]


async def body(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """The bytes as they were sent, not decoded. Closes the answer at its end; use it in `aclosing`.

    httpx reads through five generators, one in another, and closes the outermost only: trio would find the others lying
    about. With the connection closed, reading on makes each of them end with an error."""
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
