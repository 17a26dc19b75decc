"""The content store: an OCI image layout under `<data-root>/content` (image-spec image-layout.md), which contains only
blobs.

The database contains the references to these blobs.

    oci-layout  index.json  blobs/sha256/<hex>     immutable, verified, durable before a row refers to them
    ingest/<hex>                                   an incomplete download; survives a crash and is resumed
    ingest/tmp-*                                   content that is never resumed, because its digest is not known yet or
                                                   because several clients receive it; removed at the daemon's next start
    quarantine/<hex>                               a blob whose content was found damaged; kept for the administrator

A blob is renamed to its final name after its bytes were hashed and synced, and the directory is synced before `commit`
returns. So every file under blobs/ is complete. Only one process, the daemon, writes to the content store.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager

import trio

from orlop_sdk import DriverError, NotFound

from .disk_space import DiskSpace
from .documents import digest as digest_of

__all__ = ["ContentStore", "DamagedBlob", "DigestMismatch", "Ingest"]

_HEX = re.compile(r"[0-9a-f]{64}")
# Bytes passed to a thread at a time; hashing a MiB takes about a millisecond, which is too long for the event loop
_BATCH = 1 << 20
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_INDEX = b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}'


class DamagedBlob(DriverError):
    """A blob's content does not match its digest."""


class DigestMismatch(DriverError):
    """The received bytes do not match the digest. `resumed`: some of the bytes are from an earlier attempt, so a retry from
    the first byte may succeed."""

    def __init__(self, expected: str, found: str, *, resumed: bool) -> None:
        super().__init__(f"filesystem layer verification failed for digest {expected}")
        self.found = found
        self.resumed = resumed


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Ingest:
    """One blob that is being received. The ingest ends with a call of `commit`, `abandon` or `keep`."""

    def __init__(self, store: ContentStore, path: str, expected: str | None) -> None:
        self._store, self._path, self._expected = store, path, expected
        self._fd = -1
        self._hash = hashlib.sha256()
        self._pending: list[bytes] = []
        self._waiting = 0
        self.resumed = False
        """Whether the bytes come from several attempts. If so, and if the digest is wrong, a retry from the first byte may
        succeed."""
        self.offset = 0
        """The number of received bytes, including the bytes of earlier attempts."""

    def _open(self) -> None:
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        while piece := os.read(self._fd, _BATCH):
            self._hash.update(piece)
            self.offset += len(piece)
        self.resumed = self.offset > 0

    async def write(self, data: bytes) -> None:
        self._pending.append(data)
        self._waiting += len(data)
        self.offset += len(data)
        if self._waiting >= _BATCH:
            await self._flush()

    async def _flush(self) -> None:
        if self._pending:
            data, self._pending, self._waiting = b"".join(self._pending), [], 0
            await trio.to_thread.run_sync(self._store_bytes, data)

    def store(self, data: bytes) -> None:
        """Like `write`, for a caller on a thread."""
        self._store_bytes(data)
        self.offset += len(data)

    def _store_bytes(self, data: bytes) -> None:
        self._hash.update(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    async def restart(self) -> None:
        """Discard the received bytes. The source will send the blob again, from the first byte."""
        self._pending, self._waiting, self.offset, self.resumed = [], 0, 0, False
        self._hash = hashlib.sha256()
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)

    async def commit(self, hold: Callable[[str], Awaitable[None]] | None = None) -> str:
        """Verify the content, make it durable, and publish it as a blob. Before the blob is published, the callback `hold`
        is called with its digest. The callback can then add the blob to a lease, which protects the blob from garbage
        collection. After a `DigestMismatch` the ingest is still open: call `restart` or `abandon`."""
        await self._flush()
        found = "sha256:" + self._hash.hexdigest()
        if self._expected is not None and found != self._expected:
            raise DigestMismatch(self._expected, found, resumed=self.resumed)
        if hold is not None:
            await hold(found)
        await trio.to_thread.run_sync(self._publish, found)
        return found

    def _publish(self, digest: str) -> None:
        os.fsync(self._fd)
        os.rename(self._path, self._store.path(digest))
        _sync_directory(self._store.blobs)
        self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def abandon(self) -> None:
        """Remove the received bytes. Does nothing after `commit` or `keep`."""
        if self._fd >= 0:
            os.unlink(self._path)
            self._close()

    def keep(self) -> None:
        """End the ingest, and keep the received bytes. A later ingest of the same digest continues after these bytes. An
        empty ingest is removed."""
        if self._fd < 0:
            return
        if self._pending:
            self._store_bytes(b"".join(self._pending))
        if self.offset:
            self._close()
        else:
            self.abandon()


def _no_builder(snapshot: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
    raise DriverError(f"cannot pack snapshot {snapshot}: it has no row")


class ContentStore:
    """Blobs by digest. Methods that are not async only touch directory entries and take microseconds."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.space = DiskSpace(root)
        self.blobs = os.path.join(root, "blobs", "sha256")
        self.partial = os.path.join(root, "ingest")
        self.packed: Callable[[str], AbstractAsyncContextManager[AsyncIterator[bytes]]] = _no_builder
        """Opens the tar of a layer that was built by this engine. The argument is the layer's storage key. Set by
        `building`."""

    def prepare(self) -> None:
        """Create the layout, and remove unnamed content that a crash left. Call once, when the daemon starts."""
        for path in (self.root, os.path.dirname(self.blobs), self.blobs, self.partial):
            os.makedirs(path, 0o700, exist_ok=True)
        for name, data in (("oci-layout", _LAYOUT), ("index.json", _INDEX)):
            path = os.path.join(self.root, name)
            if not os.path.exists(path):
                with open(path, "wb") as file:
                    file.write(data)
        for name in os.listdir(self.partial):
            if name.startswith("tmp-"):
                os.unlink(os.path.join(self.partial, name))

    def path(self, digest: str) -> str:
        return os.path.join(self.blobs, digest.removeprefix("sha256:"))

    def has(self, digest: str) -> bool:
        return os.path.exists(self.path(digest))

    def size(self, digest: str) -> int:
        """The blob's size in bytes; 0 if it does not exist."""
        try:
            return os.stat(self.path(digest)).st_size
        except FileNotFoundError:
            return 0

    def open(self, digest: str) -> int:
        """A file descriptor to read the blob; the caller closes it."""
        try:
            return os.open(self.path(digest), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise NotFound(f"cannot read blob {digest}: it is not in the content store") from None

    def read(self, digest: str, limit: int) -> bytes:
        """The content of a small blob. The content is hashed and compared with the digest, because the disk may have damaged
        it."""
        fd = self.open(digest)
        with os.fdopen(fd, "rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit or digest_of(data) != digest:
            raise DamagedBlob(f"cannot read blob {digest}: its content is damaged")
        return data

    async def put(self, data: bytes) -> str:
        """Store bytes. Returns their digest."""
        digest = digest_of(data)
        if not self.has(digest):
            ingest = await self.ingest(None)
            try:
                await ingest.write(data)
                await ingest.commit()
            finally:
                ingest.abandon()
        return digest

    async def ingest(self, expected: str | None, *, apart: bool = False) -> Ingest:
        """Begin to receive a blob, or resume an interrupted download of the digest `expected`. If `apart` is false, there
        can be only one ingest per digest at a time. If `apart` is true, begin a separate ingest, which uses no earlier
        download. Other ingests of the digest may then run at the same time. Do not call the method `keep` of a separate
        ingest."""
        name = expected.removeprefix("sha256:") if expected and not apart else f"tmp-{secrets.token_hex(8)}"
        ingest = Ingest(self, os.path.join(self.partial, name), expected)
        await trio.to_thread.run_sync(ingest._open)
        return ingest

    def temporary(self) -> str:
        """The path of a new temporary file. The caller passes the path to `adopt` or removes the file. If the daemon crashes
        before that, the next daemon removes the file."""
        return os.path.join(self.partial, f"tmp-{secrets.token_hex(8)}")

    def adopt(self, path: str, digest: str) -> None:
        """Publish a temporary file, whose content the caller has hashed, as a blob. The caller must have added the digest to
        a lease."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(path, self.path(digest))
        _sync_directory(self.blobs)

    def remove(self, digest: str) -> None:
        """Remove a blob, if it exists. The removal is durable after the next sync of the directory. A crash before this sync
        leaves a blob without a reference."""
        try:
            os.unlink(self.path(digest))
        except FileNotFoundError:
            pass

    def quarantine(self, digest: str) -> None:
        """Move a damaged blob away, so that the next pull or load stores it again. Does nothing if the blob does not exist.
        An older quarantined blob with the same digest is replaced, so that repeated quarantines do not fill the disk."""
        directory = os.path.join(self.root, "quarantine")
        os.makedirs(directory, 0o700, exist_ok=True)
        try:
            os.rename(self.path(digest), os.path.join(directory, digest.removeprefix("sha256:")))
        except FileNotFoundError:
            return
        _sync_directory(self.blobs)

    def digests(self) -> list[str]:
        return [f"sha256:{name}" for name in os.listdir(self.blobs) if _HEX.fullmatch(name)]

    def partial_size(self, digest: str) -> int:
        """The bytes that an interrupted download has received."""
        try:
            return os.stat(os.path.join(self.partial, digest.removeprefix("sha256:"))).st_size
        except FileNotFoundError:
            return 0

    def partials(self) -> list[str]:
        """Digests of interrupted downloads."""
        return [f"sha256:{name}" for name in os.listdir(self.partial) if _HEX.fullmatch(name)]

    def remove_partials(self, digests: Iterable[str]) -> int:
        """Remove interrupted downloads. Returns their bytes."""
        total = 0
        for digest in digests:
            path = os.path.join(self.partial, digest.removeprefix("sha256:"))
            try:
                total += os.stat(path).st_size
                os.unlink(path)
            except FileNotFoundError:
                pass
        return total

    def spool(self) -> int:
        """An unnamed temporary file, for a body that must be read twice. The file disappears when its descriptor is closed,
        even if the daemon crashes."""
        return os.open(self.partial, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
