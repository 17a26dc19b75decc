"""The tars of snapshots. A worker packs a snapshot when its tar is needed; the tar is not stored.

Packing a snapshot again results in the same bytes, because its files do not change and the packer sorts them. So for a layer
that was built by this engine, only the digest of its tar is stored. The tar is made again for each `docker save` or push.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

import trio

from orlop_engine.files.archive import packed
from orlop_engine.files.commit import listed_changes
from orlop_engine.unpacking import AnswerReader, Spawner, refusal, worker
from orlop_monitor.unpack.request import Done, Pack, View
from orlop_sdk import Storage

__all__ = ["Packing"]


class Packing:
    def __init__(self, storage: Storage, zygote: Spawner, exec_root: str) -> None:
        self._storage, self._zygote = storage, zygote
        self._mount_point = os.path.join(exec_root, "files")

    @asynccontextmanager
    async def _changes(self, key: str) -> AsyncIterator[tuple[View, int]]:
        os.makedirs(self._mount_point, mode=0o700, exist_ok=True)
        view = View(self._mount_point, tuple(await self._storage.mounts(key, readonly=True)))
        listed = await trio.to_thread.run_sync(listed_changes, await self._storage.changes(key))
        try:
            yield view, listed
        finally:
            os.close(listed)

    async def measure(self, key: str, latest: int | None = None) -> tuple[str, int]:
        """The digest and the length of the tar of a snapshot's difference from its parent. `latest`: see `tar`."""
        async with self._changes(key) as (view, listed):
            request = Pack(view, layer=True, sparse=False, measure=True, latest=latest)
            async with worker(self._zygote, request, (listed,)) as channel:
                answer = await AnswerReader(channel).next()
        if not isinstance(answer, Done):
            raise refusal(f"pack snapshot {key}", answer)
        return answer.diff_id, answer.size

    @asynccontextmanager
    async def tar(self, key: str, latest: int | None = None) -> AsyncIterator[AsyncIterator[bytes]]:
        """The tar of a snapshot's difference from its parent. `latest` (seconds since 1970): file times after `latest` are
        replaced by `latest`."""
        async with self._changes(key) as (view, listed):
            request = Pack(view, layer=True, sparse=False, latest=latest)
            pieces = await packed(self._zygote, request, (listed,), f"pack snapshot {key}", AsyncExitStack())
            async with aclosing(pieces):
                yield pieces
