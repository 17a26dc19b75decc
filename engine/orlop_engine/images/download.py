"""Downloads blobs into the content store: resumes with Range requests, retries with growing delays, and shares one
download between all pulls that wait for the blob.

The received bytes are stored in `ingest/<hex>`, and survive connection failures and crashes. Content with a wrong digest is
removed. A download for a restricted client (a client that is limited by a role or labels) always begins with the first byte,
because stored parts may be from another client's pull. Messages are the same as Docker's
(daemon/internal/distribution/xfer/download.go, pull_v2.go).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import trio

from orlop_sdk import DriverError

from .content import ContentStore, DigestMismatch, Ingest
from .manifests import Descriptor
from .progress import Report, amount, state
from .registry_errors import RegistryError
from .shared import SharedWork

if TYPE_CHECKING:
    from .sources import Sources

__all__ = ["Downloads", "short"]


T = TypeVar("T")
_MAX_WAIT = 60.0  # seconds; if a registry asks for a longer pause (Retry-After), the request fails instead
# An attempt with less progress counts as failed, because otherwise a registry can prolong a pull for ever by sending single
# bytes
_PROGRESS = 1 << 20


def _asked(error: RegistryError) -> float | None:
    """The pause, in seconds, that the registry asks for in an answer with status 429 (too many requests). None if the
    registry asks for no pause, or for a pause of more than `_MAX_WAIT`. Docker does not retry after a 429."""
    return error.wait if error.status == 429 and error.wait is not None and error.wait <= _MAX_WAIT else None


def short(digest: str) -> str:
    """A layer's id in progress records: 12 hex digits of its blob's digest."""
    return digest.removeprefix("sha256:")[:12]


@dataclass(frozen=True, slots=True)
class _Source:
    """`apart`: see `ContentStore.ingest`."""

    sources: Sources
    descriptor: Descriptor
    apart: bool


class Downloads:
    """All downloads of the daemon. `slots` is the setting `max-concurrent-downloads`, and `attempts` is
    `max-download-attempts`."""

    def __init__(self, content: ContentStore, nursery: trio.Nursery, slots: int, attempts: int, wait: float = 5.0) -> None:
        self.attempts = attempts
        self.wait = wait
        self._content = content
        self._limiter = trio.CapacityLimiter(max(1, slots))
        self._shared: SharedWork[None] = SharedWork(nursery)

    def reconfigure(self, slots: int, attempts: int) -> None:
        self._limiter.total_tokens, self.attempts = max(1, slots), attempts

    async def fetch(self, sources: Sources, descriptor: Descriptor, report: Report, *, owner: str = "") -> None:
        """Download the blob into the store. Raises `RegistryError` or `DriverError`.

        `owner` is set for a restricted client. Such a client must prove that it can get the blob without this daemon, so
        every byte comes from `sources`, even if the blob or a part of it is stored. Two downloads share their work only if
        they have the same owner."""
        if self._content.has(descriptor.digest) and not owner:
            report(state(short(descriptor.digest), "Download complete"))
            return
        source = _Source(sources, descriptor, apart=bool(owner))
        key = f"{descriptor.digest} for {owner}" if owner else descriptor.digest
        await self._shared.run(key, lambda share: self._download(source, share), report)

    async def repeat(self, request: Callable[[], Awaitable[T]]) -> T:
        """Make a request, and repeat it when the registry asks for a pause."""
        tries = 0
        while True:
            try:
                return await request()
            except RegistryError as error:
                tries, asked = tries + 1, _asked(error)
                if asked is None or tries > self.attempts:
                    raise
                await self._pause(asked, "", _quiet)

    @asynccontextmanager
    async def _slot(self, id: str, report: Report) -> AsyncIterator[None]:
        if not self._limiter.available_tokens:
            report(state(id, "Waiting"))
        async with self._limiter:
            yield

    async def _download(self, source: _Source, report: Report) -> None:
        digest = source.descriptor.digest
        if self._content.has(digest) and not source.apart:
            return
        id = short(digest)
        async with source.sources.borrowed(), self._slot(id, report):
            ingest = await self._content.ingest(digest, apart=source.apart)
            try:
                await self._retry(source, ingest, report)
                report(state(id, "Download complete"))
            except (RegistryError, trio.Cancelled):
                if not source.apart:
                    ingest.keep()
                raise
            finally:
                ingest.abandon()

    async def _retry(self, source: _Source, ingest: Ingest, report: Report) -> None:
        """Retry until the blob is complete, or until a retry is useless. Progress resets the count of attempts."""
        tries, best = 0, ingest.offset
        while True:
            try:
                await self._try(source, ingest, report)
                return
            except RegistryError as error:
                if ingest.offset >= best + _PROGRESS:
                    tries, best = 0, ingest.offset
                tries, asked = tries + 1, _asked(error)
                if not (error.retry or asked is not None) or tries > self.attempts:
                    raise
                if error.status == 416:
                    await ingest.restart()
            except DigestMismatch as error:
                if not source.sources.reject(source.descriptor.digest) and not error.resumed:
                    raise
                await ingest.restart()  # the bytes from an earlier attempt, or from a mirror, may be wrong
                best = 0
                continue
            except OSError as error:
                raise DriverError(f"cannot store layer {source.descriptor.digest}: {error.strerror}") from error
            await self._pause(5 * tries if asked is None else asked, short(source.descriptor.digest), report)

    async def _pause(self, seconds: float, id: str, report: Report) -> None:
        for left in range(max(1, round(seconds)), 0, -1):
            report(state(id, f"Retrying in {left} second{'s' if left != 1 else ''}"))
            await trio.sleep(self.wait / 5)

    async def _try(self, source: _Source, ingest: Ingest, report: Report) -> None:
        wanted, id = source.descriptor, short(source.descriptor.digest)
        if ingest.offset > wanted.size:
            await ingest.restart()
        ingest.resumed = ingest.offset > 0
        if ingest.offset < wanted.size or wanted.size == 0:
            async with source.sources.blob(wanted.digest, ingest.offset) as (start, pieces):
                # A registry that does not support ranges sends the whole blob again: skip the bytes that are already stored
                ahead = ingest.offset - start
                await self._receive(
                    pieces, ahead, wanted, ingest, lambda done: report(amount(id, "Downloading", done, wanted.size))
                )
        report(state(id, "Verifying Checksum"))
        await ingest.commit()

    async def _receive(
        self, pieces: AsyncIterator[bytes], ahead: int, wanted: Descriptor, ingest: Ingest, progress: Callable[[int], None]
    ) -> None:
        async for piece in pieces:
            if ahead:
                ahead, piece = max(0, ahead - len(piece)), piece[ahead:]
            if ingest.offset + len(piece) > wanted.size:
                raise DriverError(f"cannot download {wanted.digest}: the registry sends more than its {wanted.size} bytes")
            await ingest.write(piece)
            progress(ingest.offset)
        if ingest.offset < wanted.size:
            raise RegistryError(f"cannot download {wanted.digest}: unexpected EOF", retry=True)


def _quiet(_: object) -> None:
    """Report nothing, because pauses before requests for manifests are not shown."""
