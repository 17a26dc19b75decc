"""`GET /images/search`: searches a registry with the old protocol `/v1/search`, which Docker Hub still supports. This module
is imported on demand."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from urllib.parse import urlsplit

import httpx
import msgspec

from orlop_engine.config import Config
from orlop_sdk import DriverError, InvalidParameter
from orlop_sdk.numbers import natural

from .destinations import Destinations, Refuse, for_registry
from .http_body import body
from .listing import Filters, boolean, check
from .registry_hosts import HostRules, Proxies
from .web import get

__all__ = ["SearchResult", "search"]

INDEX = "https://index.docker.io"
_LIMIT = 4 << 20
_STALL = 30.0


class SearchResult(msgspec.Struct, frozen=True):
    """A repository that was found. The registry's answer and the Engine API use the same field names. `is_automated` is
    deprecated, and always false."""

    star_count: int = 0
    is_official: bool = False
    name: str = ""
    is_automated: bool = False
    description: str = ""


class _Answer(msgspec.Struct):
    results: list[SearchResult] | None = None


def _where(term: str) -> tuple[str, str]:
    """The registry to ask, and the words to search for. A term may begin with the name of a registry."""
    host, slash, rest = term.partition("/")
    if slash and ("." in host or ":" in host or host == "localhost"):
        return f"https://{host}", rest
    return INDEX, term.removeprefix("library/")


async def _get(url: str, proxies: Proxies, certificates: Sequence[str], destinations: Destinations | None) -> bytes:
    data = bytearray()
    async with get(url, proxies=proxies, certificates=certificates, destinations=destinations, timeout=_STALL) as answer:
        if answer.status_code != 200:
            raise DriverError(f"Unexpected status code {answer.status_code}")
        async with aclosing(body(answer)) as pieces:
            async for piece in pieces:
                data += piece
                if len(data) > _LIMIT:
                    raise DriverError(f"cannot search {url}: the answer is larger than {_LIMIT} bytes")
    return bytes(data)


def _wanted(result: SearchResult, filters: Filters) -> bool:
    if filters.get("is-official") and result.is_official != boolean(filters, "is-official", False):
        return False
    for stars in filters.get("stars", ()):
        least = natural(stars, (1 << 63) - 1)
        if least is None:
            raise InvalidParameter(f"invalid filter 'stars=[{stars}]'")
        if result.star_count < least:
            return False
    return True


async def search(
    term: str, limit: int, filters: Filters, config: Config, certificates: Sequence[str], refuse: Refuse | None
) -> list[SearchResult]:
    """Repositories whose name or description matches the term. Raises `DriverError` if the registry does not answer."""
    check(filters, ("is-official", "is-automated", "stars"))
    if not 0 <= limit <= 100:
        raise InvalidParameter(f"limit {limit} is outside the range of [1, 100]")
    base, words = _where(term)
    rules = HostRules.of(config, certificates)
    destinations = for_registry(refuse, rules, urlsplit(base).netloc, certificates) if base != INDEX else None
    url = httpx.URL(f"{base}/v1/search", params={"q": words, "n": str(limit or 25)})
    data = await _get(str(url), config.proxies, certificates, destinations)
    try:
        found = msgspec.json.decode(data, type=_Answer).results or []
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise DriverError(f"cannot search {base}: the server's answer is not the answer of a registry") from error
    return [result for result in found if _wanted(result, filters)]
