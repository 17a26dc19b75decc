"""Uploads one blob to a registry: finds it there, mounts it from another repository, or sends it; resumes and retries.

After a broken connection the registry is asked how much it has, and the rest is sent; if it has forgotten the upload, a new
one is started. A failed or cancelled upload is removed at the registry. Messages are Docker's
(daemon/internal/distribution/xfer/upload.go, push_v2.go).
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from orlop_sdk import DriverError

from .content import DamagedBlob
from .progress import Report, amount, state
from .registry_errors import RegistryError

if TYPE_CHECKING:
    from .registry_push import PushRegistry

__all__ = ["BlobUpload", "Part", "Uploads"]

_WHOLE = 1 << 20  # smaller blobs are sent by the request that completes the upload: one round trip less
_PART = 16 << 20  # for registries, or proxies before them, that refuse a larger request (413)
_PROGRESS = 1 << 20  # an attempt that got further than this does not count
_MAX_WAIT = 60.0  # a registry may ask for more by Retry-After, but the client of the push waits


@dataclass(frozen=True, slots=True)
class BlobUpload:
    """A blob to upload. `id` names it in progress records; "" for one that is not reported. `open` opens it for reading, as
    a regular file. `mounts` are repositories of the registry that may have it."""

    digest: str
    size: int
    id: str
    open: Callable[[], AbstractAsyncContextManager[int]]
    mounts: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes of a file, to be sent with one request. `ranged`: with Content-Range, which a resumed or divided upload needs.
    Docker sends none, and some registries expect none."""

    fd: int
    start: int
    length: int
    ranged: bool


class Uploads:
    """All uploads of the daemon. `slots` is `max-concurrent-uploads`, `attempts` is `max-upload-attempts`. `wait`: the
    seconds of five before the first retry; it grows with each."""

    def __init__(self, slots: int, attempts: int, wait: float = 5.0) -> None:
        self.attempts = attempts
        self.wait = wait
        self._limiter = trio.CapacityLimiter(max(1, slots))

    def reconfigure(self, slots: int, attempts: int) -> None:
        self._limiter.total_tokens, self.attempts = max(1, slots), attempts

    @asynccontextmanager
    async def slot(self, id: str, report: Report) -> AsyncIterator[None]:
        """One of the uploads that may run at once."""
        if not self._limiter.available_tokens:
            report(state(id, "Waiting"))
        async with self._limiter:
            yield

    async def upload(self, registry: PushRegistry, blob: BlobUpload, report: Report) -> None:
        """Return when the repository has the blob. Raises `RegistryError`, or `DriverError` for a local failure."""
        running = _Running(registry, blob, report)
        try:
            await self._retry(running, report)
        except OSError as error:
            raise DriverError(f"cannot read blob {blob.digest}: {error.strerror or error}") from error
        finally:
            await running.close()

    async def repeat(self, request: Callable[[], Awaitable[None]]) -> None:
        """Make a request that may be repeated, until it succeeds or a repetition is pointless."""
        tries = 0
        while True:
            try:
                await request()
                return
            except RegistryError as error:
                tries += 1
                if tries >= self.attempts or not _may_pass(error):
                    raise
                await self.pause(tries, "", _quiet, error.wait)

    async def _retry(self, running: _Running, report: Report) -> None:
        tries, best = 0, 0
        while True:
            try:
                await running.attempt()
                return
            except RegistryError as error:
                if running.acknowledged >= best + _PROGRESS:
                    tries, best = 0, running.acknowledged
                if error.code == "DIGEST_INVALID":
                    await _verify(running.blob)
                tries += 1
                if tries >= self.attempts or not running.survives(error):
                    raise
                await self.pause(tries, running.blob.id, report, error.wait)

    async def pause(self, tries: int, id: str, report: Report, asked: float | None = None) -> None:
        """Wait before the next attempt: longer each time, or as long as the registry asks for."""
        seconds = 5 * tries if asked is None else max(1, round(min(asked, _MAX_WAIT)))
        for left in range(seconds, 0, -1):
            if id:
                report(state(id, f"Retrying in {left} second{'s' if left != 1 else ''}"))
            await trio.sleep(self.wait / 5)


class _Running:
    """One upload, over all its attempts. `location` is "" when there is none at the registry."""

    def __init__(self, registry: PushRegistry, blob: BlobUpload, report: Report) -> None:
        self.blob = blob
        self._registry, self._report = registry, report
        self.acknowledged = 0
        """Bytes that the registry is known to have of this upload."""
        self._location = ""
        self._sent = False
        self._part = 0
        self._mounts = list(blob.mounts)

    def survives(self, error: RegistryError) -> bool:
        """Whether another attempt may succeed. Decides how it begins."""
        if error.status == 413 and self._part == 0:
            self._part = _PART
            return True
        if error.status == 404 and self._location:
            self._location = ""  # the registry has forgotten this upload
            return True
        if error.code == "DIGEST_INVALID":
            self._location = ""  # it ended with this answer
            return True
        return _may_pass(error) or (error.status == 416 and bool(self._location))

    async def close(self) -> None:
        if self._location:
            await self._registry.cancel(self._location)

    async def attempt(self) -> None:
        """Bring the blob to the repository, continuing an earlier attempt."""
        offset = await self._resume() if self._location else 0
        if not self._location:
            if await self._registry.has_blob(self.blob.digest, self.blob.size):
                self._tell("Pushed" if self._sent else "Layer already exists")  # sent, but the answer was lost
                return
            if await self._mount():
                return
            self._location = self._location or await self._registry.start()
        await self._send(offset)
        self._location = ""
        self._tell("Pushed")

    async def _resume(self) -> int:
        """The offset at which to continue. Gives up an upload that the registry has lost."""
        try:
            self._location, self.acknowledged = await self._registry.state(self._location)
        except RegistryError as error:
            if not error.answered or error.status >= 500 or error.status == 429:
                raise
            self._location = "" if error.status == 404 else self._location
            return await self._give_up()
        return self.acknowledged if self.acknowledged <= self.blob.size else await self._give_up()

    async def _give_up(self) -> int:
        """Begin with another upload."""
        await self.close()
        self._location, self.acknowledged = "", 0
        return 0

    async def _mount(self) -> bool:
        """Mount the blob from a repository that has it. Otherwise the last try leaves an upload."""
        while self._mounts:
            source = self._mounts.pop(0)
            try:
                location = await self._registry.mount(self.blob.digest, source)
            except RegistryError as error:
                if (error.retry and not error.answered) or error.status == 429:
                    raise
                continue  # not allowed to read that repository, mounts are not supported, or the answer is of no use
            if not location:
                if await self._registry.has_blob(self.blob.digest, self.blob.size):
                    self._tell(f"Mounted from {source}")
                    return True
                continue  # it does not have what it said it has mounted
            if self._location:
                await self.close()
            self._location = location
        return False

    async def _send(self, offset: int) -> None:
        blob, registry = self.blob, self._registry
        self._sent = True
        async with blob.open() as fd:
            if offset == 0 and blob.size <= (self._part or _WHOLE):
                part = Part(fd, 0, blob.size, ranged=False)
                await registry.finish(self._location, blob.digest, part, self._progress)
                return
            while offset < blob.size:
                length = min(blob.size - offset, self._part or blob.size)
                part = Part(fd, offset, length, ranged=offset > 0 or length < blob.size)
                self._location, received = await registry.append(self._location, part, self._progress)
                offset += length
                if received is not None and received != offset:
                    text = f"cannot push blob {blob.digest}: the registry has {received} of {offset} bytes that were sent"
                    raise RegistryError(text, retry=True)
                self.acknowledged = offset
            await registry.finish(self._location, blob.digest, None, self._progress)

    def _progress(self, done: int) -> None:
        if self.blob.id:
            self._report(amount(self.blob.id, "Pushing", done, self.blob.size))

    def _tell(self, text: str) -> None:
        if self.blob.id:
            self._report(state(self.blob.id, text))


def _may_pass(error: RegistryError) -> bool:
    """Whether the same request may succeed later. A registry's refusal does not pass, except for too many requests."""
    refused = 400 <= error.status < 500 and bool(error.code)
    return error.status in (408, 429) or (error.retry and not refused)


async def _verify(blob: BlobUpload) -> None:
    """Tell a blob that is damaged on this host from one that was damaged on the way."""
    async with blob.open() as fd:
        found = await trio.to_thread.run_sync(_digest, fd)
    if found != blob.digest:
        raise DamagedBlob(
            f"cannot push blob {blob.digest}: its content on this host is damaged; pull or load the image again"
        )


def _digest(fd: int) -> str:
    with open(fd, "rb", closefd=False) as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def _quiet(_: object) -> None:
    """Requests for manifests are not reported."""
