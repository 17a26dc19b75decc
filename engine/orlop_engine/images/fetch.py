"""Fetches the body of a URL, for an import. This module is imported on demand, because httpx is large."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

from orlop_sdk import DriverError, NotFound

from .destinations import Destinations
from .http_body import body
from .progress import Report, amount, message
from .registry_hosts import Proxies
from .web import get

__all__ = ["fetch"]

_STALL = 60.0


async def _counted(pieces: AsyncIterator[bytes], total: int, report: Report) -> AsyncGenerator[bytes, None]:
    done = 0
    async for piece in pieces:
        done += len(piece)
        report(amount("", "Importing", done, total))
        yield piece


@asynccontextmanager
async def fetch(
    url: str, proxies: Proxies, certificates: Sequence[str], destinations: Destinations | None, report: Report
) -> AsyncIterator[AsyncIterator[bytes]]:
    """The body of a URL. Raises `NotFound` and `DriverError` with Docker's messages. The messages omit the server's error
    text, because otherwise a client can read from a server that only this host can reach."""
    async with get(url, proxies=proxies, certificates=certificates, destinations=destinations, timeout=_STALL) as answer:
        if answer.status_code >= 400:
            text = f"failed to GET {url} with status {answer.status_code} {answer.reason_phrase}"
            raise (NotFound if answer.status_code == 404 else DriverError)(text)
        report(message(f"Downloading from {url}"))
        size = answer.headers.get("content-length", "")
        total = int(size) if size.isdigit() else 0
        async with aclosing(body(answer)) as raw, aclosing(_counted(raw, total, report)) as pieces:
            yield pieces
