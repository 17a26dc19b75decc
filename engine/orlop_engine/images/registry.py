"""A client of a registry (distribution spec, pull): manifests, blobs and tags of one repository at one endpoint.

This module is imported on demand, like `registry_session`. The size of answers is limited by `MAX_MANIFEST` and `_ALL_TAGS`.
The caller limits the size of blobs.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from urllib.parse import urljoin

import httpx
import msgspec

from orlop_sdk import DriverError

from .documents import MAX_MANIFEST
from .documents import digest as digest_of
from .http_body import body
from .manifests import ACCEPT
from .registry_errors import RegistryError
from .registry_session import Session, origin

__all__ = ["Registry"]

_PAGES = 1000
# Limit for the bytes of all pages. A hundred thousand tags fit, and no real repository has so many
_ALL_TAGS = 8 << 20
_NEXT = re.compile(r'<([^>]+)>\s*;\s*rel="?next"?')


class _Tags(msgspec.Struct):
    tags: list[str] | None = None


class Registry(Session):
    """A connection for reading one repository. Open it with `Registry.connect`."""

    async def manifest(self, reference: str) -> tuple[str, bytes]:
        """Media type and bytes of a manifest or index, by tag or digest. If the caller asks by digest, this method verifies
        the bytes."""
        path = f"/v2/{self.repository}/manifests/{reference}"
        async with self.request("GET", path, {"Accept": ", ".join(ACCEPT)}) as response:
            data = await self.read_body(response, MAX_MANIFEST, "Get", self.endpoint.at(path))
            media_type = response.headers.get("content-type", "")
        if ":" in reference and digest_of(data) != reference:
            raise DriverError(f"manifest verification failed for digest {reference}")
        return media_type, data

    @asynccontextmanager
    async def blob(self, digest: str, offset: int = 0) -> AsyncIterator[tuple[int, AsyncIterator[bytes]]]:
        """A blob from `offset` on, or from the start if the registry ignores ranges. Returns (offset of the first byte,
        pieces)."""
        path = f"/v2/{self.repository}/blobs/{digest}"
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        async with self.request("GET", path, headers) as response:
            start = 0
            if offset and response.status_code == 206:
                given = re.match(r"bytes (\d{1,18})-", response.headers.get("content-range", ""))
                start = int(given[1]) if given else -1
                if start != offset:
                    raise RegistryError(f"cannot resume {digest}: the registry sent another range", status=416, retry=True)
            url = self.endpoint.at(path)
            async with aclosing(body(response)) as raw, aclosing(self._pieces(raw, url)) as pieces:
                yield start, pieces

    async def _pieces(self, pieces: AsyncIterator[bytes], url: str) -> AsyncGenerator[bytes, None]:
        try:
            async for piece in pieces:
                yield piece
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise self.failure("Get", url, error) from error

    async def tags(self) -> list[str]:
        """All tags, from all pages of the registry's list. Raises `DriverError` if there are too many."""
        result: list[str] = []
        size = 0
        url = self.endpoint.at(f"/v2/{self.repository}/tags/list")
        for _ in range(_PAGES):
            async with self.request("GET", url, {}) as response:
                data = await self.read_body(response, MAX_MANIFEST, "Get", url)
                more = _NEXT.search(response.headers.get("link", ""))
            size += len(data)
            if size > _ALL_TAGS:
                break
            try:
                result += msgspec.json.decode(data, type=_Tags).tags or []
            except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
                raise DriverError(f"cannot read tags of {self.repository}: {error}") from error
            if more is None:
                return result
            target = urljoin(url, more[1])
            if origin(target) != origin(self.endpoint.url):
                raise DriverError(f"cannot read tags of {self.repository}: the next page is at another registry")
            url = target
        raise DriverError(
            f"cannot read tags of {self.repository}: its list is longer than {_ALL_TAGS >> 20} MiB or {_PAGES} pages"
        )
