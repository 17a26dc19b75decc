"""An image service for tests: the real service, store, events and content store; storage and unpacker are fakes.

The fakes implement only the behaviour that the service relies on (a parent cannot be removed, a diffID must match).
`test_registry_root` tests the service with the real driver and the real sandbox.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio

from orlop_engine.config import Config
from orlop_engine.images.progress import Progress
from orlop_engine.images.registry_hosts import Timeouts
from orlop_engine.images.service import Images
from orlop_engine.testing import decompress_here
from orlop_kernel.events import EventBus
from orlop_kernel.store import Store
from orlop_sdk import Change, Conflict, InvalidParameter, Mount, NotFound, StorageCapabilities, UnpackTarget, Usage

FAST = Timeouts(connect=2, ping=2, stall=0.5, small=2)


class DirectoryStorage:
    """Snapshots as directories under `root`. Parents are kept in memory only, because tests reopen the storage in the same
    process."""

    def __init__(self, root: str) -> None:
        self._root = root
        self.parents: dict[str, str | None] = {}
        os.makedirs(root, exist_ok=True)

    @property
    def capabilities(self) -> StorageCapabilities:
        return StorageCapabilities(max_depth=16)

    def _path(self, key: str) -> str:
        if key not in self.parents:
            raise NotFound(f"no snapshot {key}")
        return os.path.join(self._root, key)

    async def prepare(self, key: str, parent: str | None, *, options: Mapping[str, str] | None = None) -> None:
        if parent is not None:
            self._path(parent)
        self.parents[key] = parent
        os.makedirs(self._path(key), exist_ok=True)

    async def commit(self, key: str, name: str) -> None:
        await trio.lowlevel.checkpoint()
        path = self._path(key)
        parent = self.parents.pop(key)
        if name in self.parents:
            shutil.rmtree(path)
            return
        self.parents[name] = parent
        os.rename(path, self._path(name))

    async def remove(self, key: str) -> None:
        await trio.lowlevel.checkpoint()
        if key not in self.parents:
            return
        if key in self.parents.values():
            raise Conflict(f"{key} has children")
        shutil.rmtree(self._path(key))
        del self.parents[key]

    async def mounts(self, key: str, *, readonly: bool = False, volatile: bool = False) -> Sequence[Mount]:
        return [Mount("bind", self._path(key), "", ("ro",) if readonly else ())]

    async def unpack_target(self, key: str) -> UnpackTarget:
        return UnpackTarget(self._path(key), False)

    async def usage(self, key: str) -> Usage:
        files = [os.path.join(top, name) for top, _, names in os.walk(self._path(key)) for name in names]
        return Usage(sum(os.lstat(file).st_size for file in files), len(files))

    async def changes(self, key: str) -> Sequence[Change]:
        return []

    async def describe(self, key: str) -> dict[str, str]:
        return {"UpperDir": self._path(key)}

    async def keys(self) -> Sequence[str]:
        return sorted(self.parents)

    async def status(self) -> Sequence[tuple[str, str]]:
        return []


@dataclass(frozen=True)
class Done:
    diff_id: str
    size: int
    entries: int


@dataclass
class Unpacker:
    """Unpacks regular files only, in this process. `count` counts unpacked layers. While `gate` is unset, unpacking
    waits."""

    count: int = 0
    gate: trio.Event | None = None

    async def __call__(
        self,
        zygote: Any,
        source: int,
        target: UnpackTarget,
        *,
        expect_diff_id: str | None,
        progress: Callable[[int], None] | None,
    ) -> Done:
        self.count += 1
        await trio.lowlevel.checkpoint()
        if self.gate is not None:
            await self.gate.wait()
        data = os.pread(source, os.fstat(source).st_size, 0)
        if progress is not None:
            progress(len(data))
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        elif data[:4] == b"\x28\xb5\x2f\xfd":
            import zstandard

            data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
        diff_id = "sha256:" + hashlib.sha256(data).hexdigest()
        if expect_diff_id not in (None, diff_id):
            raise InvalidParameter(f"cannot unpack layer: its diffID is {diff_id}, not {expect_diff_id}")
        try:
            return Done(diff_id, len(data), self._write(data, target.directory))
        except tarfile.TarError as error:
            raise InvalidParameter(f"cannot unpack layer: {error}") from error

    def _write(self, data: bytes, directory: str) -> int:
        count = 0
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            for entry in archive:
                count += 1
                if entry.isreg():
                    path = os.path.join(directory, entry.name.replace("/", "_"))
                    with open(path, "wb") as file:
                        content = archive.extractfile(entry)
                        assert content is not None
                        file.write(content.read())
        return count


@dataclass
class ImagesFixture:
    """An open image service and its parts."""

    images: Images
    events: EventBus
    storage: DirectoryStorage
    unpacker: Unpacker
    root: str

    def blobs(self) -> set[str]:
        return set(os.listdir(f"{self.root}/content/blobs/sha256"))

    def partials(self) -> set[str]:
        return set(os.listdir(f"{self.root}/content/ingest"))

    def actions(self) -> list[tuple[str, str, str]]:
        """(action, actor, name) of every image event so far."""
        return [
            (event.action, event.actor_id, event.attributes.get("name", ""))
            for event in self.events._history
            if event.type == "image"
        ]

    def is_empty(self) -> bool:
        return not self.blobs() and not self.partials() and not self.storage.parents


@asynccontextmanager
async def open_images(
    root: str,
    *,
    storage: DirectoryStorage | None = None,
    unpacker: Unpacker | None = None,
    timeouts: Timeouts = FAST,
    certificates: tuple[str, ...] = (),
    **config: Any,
) -> AsyncIterator[ImagesFixture]:
    """Open the service. `storage` may be a storage that was used before. When the service is closed, operations are not
    finished, as if the daemon was killed."""
    storage = storage or DirectoryStorage(f"{root}/layers")
    unpacker = unpacker or Unpacker()
    config = {"max_download_attempts": 2, **config}
    async with Store.open(f"{root}/state/orlop.db") as store, trio.open_nursery() as nursery:
        events = EventBus()
        images = Images(
            f"{root}/content",
            store,
            events,
            storage,
            None,  # type: ignore[arg-type]  # the fake unpacker needs no zygote
            Config(**config),
            nursery,
            unpack=unpacker,
            decompress=decompress_here,
            timeouts=timeouts,
            certificates=certificates,
            retry_wait=0.01,
        )
        await images.load()
        yield ImagesFixture(images, events, storage, unpacker, root)
        nursery.cancel_scope.cancel()


async def drain(progress: Progress) -> list[dict[str, Any]]:
    """All records of a complete response. Raises an error that precedes the first record."""
    import json

    await progress.started()
    return [json.loads(line) for piece in [piece async for piece in progress] for line in piece.splitlines()]
