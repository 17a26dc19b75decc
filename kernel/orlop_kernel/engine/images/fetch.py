"""The body of a URL, for an import. Imported when it is needed, as httpx is large."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

import httpx

from orlop_kernel.spi import DriverError, NotFound

from .http_body import body
from .progress import Report, amount, message
from .registry_errors import explain_os_error
from .registry_hosts import Proxies, proxy_for

__all__ = ["fetch"]


async def _beginning(answer: httpx.Response) -> str:
    async with aclosing(body(answer)) as pieces:
        async for piece in pieces:
            return piece[:500].decode("utf-8", "replace").strip()
    return ""


async def _counted(pieces: AsyncIterator[bytes], total: int, report: Report) -> AsyncGenerator[bytes, None]:
    done = 0
    async for piece in pieces:
        done += len(piece)
        report(amount("", "Importing", done, total))
        yield piece


@asynccontextmanager
async def fetch(url: str, proxies: Proxies, report: Report) -> AsyncIterator[AsyncIterator[bytes]]:
    """The body of a URL. `NotFound` and `DriverError` in Docker's words."""
    try:
        async with (
            httpx.AsyncClient(trust_env=False, follow_redirects=True, timeout=60, proxy=proxy_for(url, proxies)) as client,
            client.stream("GET", url, headers={"Accept-Encoding": "identity"}) as answer,
        ):
            if answer.status_code >= 400:
                said = await _beginning(answer)
                text = f"failed to GET {url} with status {answer.status_code} {answer.reason_phrase}: {said}"
                raise (NotFound if answer.status_code == 404 else DriverError)(text)
            report(message(f"Downloading from {url}"))
            size = answer.headers.get("content-length", "")
            total = int(size) if size.isdigit() else 0
            async with aclosing(body(answer)) as raw, aclosing(_counted(raw, total, report)) as pieces:
                yield pieces
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        parsed = httpx.URL(url) if "://" in url else httpx.URL("http://invalid")
        cause = explain_os_error(error, parsed.host, parsed.port or (443 if parsed.scheme == "https" else 80))
        raise DriverError(f'Get "{url}": {cause}') from error
