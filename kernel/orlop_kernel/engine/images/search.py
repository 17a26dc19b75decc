"""`GET /images/search`: the old index protocol (`/v1/search`), which Docker Hub still speaks. Imported when it is needed."""

from __future__ import annotations

from contextlib import aclosing

import httpx
import msgspec

from orlop_kernel.spi import DriverError, InvalidParameter
from orlop_kernel.types.images import SearchResult

from .http_body import body
from .listing import Filters, boolean, check
from .registry_errors import explain_os_error
from .registry_hosts import Proxies, proxy_for

__all__ = ["search"]

INDEX = "https://index.docker.io"
_LIMIT = 4 << 20


class _Answer(msgspec.Struct):
    results: list[SearchResult] | None = None


def _where(term: str) -> tuple[str, str]:
    """A term may begin with a registry: its index is asked then."""
    host, slash, rest = term.partition("/")
    if slash and ("." in host or ":" in host or host == "localhost"):
        return f"https://{host}", rest
    return INDEX, term.removeprefix("library/")


async def _get(url: str, query: dict[str, str], proxies: Proxies) -> bytes:
    target = httpx.URL(url, params=query)
    data = bytearray()
    try:
        async with (
            httpx.AsyncClient(trust_env=False, timeout=30, follow_redirects=True, proxy=proxy_for(url, proxies)) as client,
            client.stream("GET", target, headers={"Accept-Encoding": "identity"}) as answer,
        ):
            if answer.status_code != 200:
                raise DriverError(f"Unexpected status code {answer.status_code}")
            async with aclosing(body(answer)) as pieces:
                async for piece in pieces:
                    data += piece
                    if len(data) > _LIMIT:
                        raise DriverError(f"cannot search {url}: the answer is larger than {_LIMIT} bytes")
    except httpx.HTTPError as error:
        raise DriverError(f'Get "{target}": {explain_os_error(error, target.host, target.port or 443)}') from error
    return bytes(data)


def _wanted(result: SearchResult, filters: Filters) -> bool:
    if filters.get("is-official") and result.is_official != boolean(filters, "is-official", False):
        return False
    for stars in filters.get("stars", ()):
        if not stars.isdigit():
            raise InvalidParameter(f"invalid filter 'stars=[{stars}]'")
        if result.star_count < int(stars):
            return False
    return True


async def search(term: str, limit: int, filters: Filters, proxies: Proxies) -> list[SearchResult]:
    """Repositories whose name or description has the term. `DriverError` when there is no index to ask."""
    check(filters, ("is-official", "is-automated", "stars"))
    if not 0 <= limit <= 100:
        raise InvalidParameter(f"limit {limit} is outside the range of [1, 100]")
    base, words = _where(term)
    data = await _get(f"{base}/v1/search", {"q": words, "n": str(limit or 25)}, proxies)
    try:
        found = msgspec.json.decode(data, type=_Answer).results or []
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise DriverError(f"cannot search {base}: {error}") from error
    return [result for result in found if _wanted(result, filters)]
