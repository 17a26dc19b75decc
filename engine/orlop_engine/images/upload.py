"""Uploads blobs to a registry. A blob that the registry does not have is mounted from another repository, or sent. Failed
uploads are resumed and repeated.

After a broken connection, the registry is asked how many bytes it has, and the remaining bytes are sent. If the registry has
forgotten the upload, a new upload is started. A failed or cancelled upload is removed at the registry. Messages are the same
as Docker's (daemon/internal/distribution/xfer/upload.go, push_v2.go).
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

_WHOLE = 1 << 20  # smaller blobs are sent in the request that completes the upload: one round trip less
_PART = 16 << 20  # bytes in one request, after the registry or a proxy has refused a larger request (413)
_PROGRESS = 1 << 20  # an attempt that has sent more bytes than this does not count as failed
_MAX_WAIT = 60.0  # seconds; a longer Retry-After of a registry is shortened to this, because the client waits for the push


@dataclass(frozen=True, slots=True)
class BlobUpload:
    """A blob to upload. `id` is the blob's id in progress records; "" if the upload is not reported. `open` opens the blob
    for reading, as a regular file. `mounts` are repositories of the registry that may have the blob."""

    digest: str
    size: int
    id: str
    open: Callable[[], AbstractAsyncContextManager[int]]
    mounts: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes of a file to be sent in one request. `ranged`: send the header Content-Range, which a resumed or divided upload
    needs. Other uploads omit this header, as Docker does, because some registries do not expect it."""

    fd: int
    start: int
    length: int
    ranged: bool


class Uploads:
    """All uploads of the daemon. `slots` and `attempts` are `max-concurrent-uploads` and `max-upload-attempts` of
    daemon.json. `wait`: seconds before the first retry; the pause grows by this time with each retry."""

    def __init__(self, slots: int, attempts: int, wait: float = 5.0) -> None:
        self.attempts = attempts
        self.wait = wait
        self._limiter = trio.CapacityLimiter(max(1, slots))

    def reconfigure(self, slots: int, attempts: int) -> None:
        self._limiter.total_tokens, self.attempts = max(1, slots), attempts

    @asynccontextmanager
    async def slot(self, id: str, report: Report) -> AsyncIterator[None]:
        """Wait until one more upload may run. The upload occupies a slot while the `with` block runs."""
        if not self._limiter.available_tokens:
            report(state(id, "Waiting"))
        async with self._limiter:
            yield

    async def upload(self, registry: PushRegistry, blob: BlobUpload, report: Report) -> None:
        """Upload the blob; when this method returns, the repository has it. Raises `RegistryError`, or `DriverError` for
        a local failure."""
        running = _Running(registry, blob, report)
        try:
            await self._retry(running, report)
        except OSError as error:
            raise DriverError(f"cannot read blob {blob.digest}: {error.strerror or error}") from error
        finally:
            await running.close()

    async def repeat(self, request: Callable[[], Awaitable[None]]) -> None:
        """Make a request, and repeat it until it succeeds or a repetition is useless."""
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
        """Wait before the next attempt. The pause grows with each attempt. If the registry asks for a pause, the length that
        it asks for is used instead, up to `_MAX_WAIT`."""
        seconds = 5 * tries if asked is None else max(1, round(min(asked, _MAX_WAIT)))
        for left in range(seconds, 0, -1):
            if id:
                report(state(id, f"Retrying in {left} second{'s' if left != 1 else ''}"))
            await trio.sleep(self.wait / 5)


class _Running:
    """One upload with all its attempts. `_location` is "" while no upload is open at the registry."""

    def __init__(self, registry: PushRegistry, blob: BlobUpload, report: Report) -> None:
        self.blob = blob
        self._registry, self._report = registry, report
        self.acknowledged = 0
        """The number of bytes that the registry is known to have received in this upload."""
        self._location = ""
        self._sent = False
        self._part = 0
        self._mounts = list(blob.mounts)

    def survives(self, error: RegistryError) -> bool:
        """Whether another attempt may succeed. Also sets where that attempt begins."""
        if error.status == 413 and self._part == 0:
            self._part = _PART
            return True
        if error.status == 404 and self._location:
            self._location = ""  # the registry has forgotten this upload
            return True
        if error.code == "DIGEST_INVALID":
            self._location = ""  # with this answer, the registry has ended the upload
            return True
        return _may_pass(error) or (error.status == 416 and bool(self._location))

    async def close(self) -> None:
        if self._location:
            await self._registry.cancel(self._location)

    async def attempt(self) -> None:
        """Make one attempt, which continues an earlier attempt if possible."""
        offset = await self._resume() if self._location else 0
        if not self._location:
            if await self._registry.has_blob(self.blob.digest, self.blob.size):
                # If bytes were sent, this upload was complete, and only the registry's answer was lost
                self._tell("Pushed" if self._sent else "Layer already exists")
                return
            if await self._mount():
                return
            self._location = self._location or await self._registry.start()
        await self._send(offset)
        self._location = ""
        self._tell("Pushed")

    async def _resume(self) -> int:
        """The offset at which to continue. If the registry has lost the upload, start again with a new upload."""
        try:
            self._location, self.acknowledged = await self._registry.state(self._location)
        except RegistryError as error:
            if not error.answered or error.status >= 500 or error.status == 429:
                raise
            self._location = "" if error.status == 404 else self._location
            return await self._give_up()
        return self.acknowledged if self.acknowledged <= self.blob.size else await self._give_up()

    async def _give_up(self) -> int:
        """Close the upload. The next attempt starts a new upload."""
        await self.close()
        self._location, self.acknowledged = "", 0
        return 0

    async def _mount(self) -> bool:
        """Try to mount the blob from another repository. If a mount fails, the registry may have started an upload
        instead."""
        while self._mounts:
            source = self._mounts.pop(0)
            try:
                location = await self._registry.mount(self.blob.digest, source)
            except RegistryError as error:
                if (error.retry and not error.answered) or error.status == 429:
                    raise
                # the client may not read that repository, the registry does not support mounts, or its answer is invalid
                continue
            if not location:
                if await self._registry.has_blob(self.blob.digest, self.blob.size):
                    self._tell(f"Mounted from {source}")
                    return True
                continue  # the registry does not have the blob, although it said that it has mounted it
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
    """Whether the same request may succeed later. A registry's refusal is final, unless the reason is a timeout or too many
    requests."""
    refused = 400 <= error.status < 500 and bool(error.code)
    return error.status in (408, 429) or (error.retry and not refused)


async def _verify(blob: BlobUpload) -> None:
    """Raise `DamagedBlob` if the blob is damaged on this host. If not, the blob was damaged on the way to the registry."""
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
    """Ignores progress reports, because requests for manifests are not shown to the client."""
