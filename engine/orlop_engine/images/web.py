"""HTTP GET for imports and searches, with redirects, proxies and the TLS settings of registries. This module is imported on
demand, because httpx is large."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from urllib.parse import urljoin, urlsplit

import httpx

from orlop_sdk import DriverError, InvalidParameter

from .destinations import Destinations, send
from .registry_errors import explain_os_error
from .registry_hosts import Proxies, proxy_for
from .registry_tls import tls_context
from .urls import check_url

__all__ = ["get"]

_REDIRECTS = 10


@asynccontextmanager
async def get(
    url: str,
    *,
    proxies: Proxies,
    certificates: Sequence[str],
    destinations: Destinations | None,
    timeout: float,
) -> AsyncIterator[httpx.Response]:
    """The response of the server at the end of the redirects. Raises `DriverError` with Docker's messages if a connection
    fails."""
    asked = url
    check_url(url)
    for _ in range(_REDIRECTS):
        proxy = proxy_for(url, proxies)
        parts = urlsplit(url)
        verify = tls_context(parts.netloc.rpartition("@")[2], True, certificates) if parts.scheme == "https" else False
        try:
            async with httpx.AsyncClient(trust_env=False, timeout=timeout, verify=verify, proxy=proxy) as client:
                headers = {"Accept-Encoding": "identity"}
                answer = await send(client, "GET", url, headers, destinations=destinations, proxied=proxy is not None)
                location = answer.headers.get("location", "")
                if answer.status_code not in (301, 302, 303, 307, 308) or not location:
                    try:
                        yield answer
                    finally:
                        await answer.aclose()
                    return
                await answer.aclose()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            port = parts.port or (443 if parts.scheme == "https" else 80)
            raise DriverError(f'Get "{url}": {explain_os_error(error, parts.hostname or "", port)}') from error
        try:
            url = urljoin(url, location)
            check_url(url)
        except (InvalidParameter, ValueError) as error:
            raise DriverError(f'Get "{asked}": cannot follow its redirect: {error}') from error
    raise DriverError(f'Get "{asked}": stopped after {_REDIRECTS} redirects')
