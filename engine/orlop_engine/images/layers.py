"""The layers that storage holds for images: unpacking each chain once, knowing what is there, removing what is not needed.

A layer's storage key is its chain ID. While it is unpacked it is an active snapshot `extract-<random>`, which is worth
nothing: boot removes those that a crash left. Whoever needs a layer holds it in a lease (`leases`) before asking for it.

On a layer that containers were made of stands an init layer (`engine.containers.rootfs`), which goes with it.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import trio

from orlop_sdk import Conflict, OrlopError, Storage, UnpackTarget

from .content import ContentStore
from .progress import Report
from .shared import SharedWork

__all__ = ["Layers", "Unpack", "Unpacked", "chain_of_init_layer", "half_made", "init_layer"]

log = logging.getLogger("orlop.images")

_ACTIVE = "extract-"
_INIT = "init-"


def half_made() -> str:
    """A new key for a snapshot that the next boot removes."""
    return _ACTIVE + secrets.token_hex(12)


def init_layer(chain_id: str) -> str:
    """The key of the init layer on an image's top layer, "" for an image without layers."""
    return _INIT + chain_id


def chain_of_init_layer(key: str) -> str | None:
    """The chain ID below an init layer; None when `key` is of none."""
    return key.removeprefix(_INIT) if key.startswith(_INIT) else None


class Unpacked(Protocol):
    """What the unpacker found: the digest of the uncompressed tar."""

    @property
    def diff_id(self) -> str: ...


class Unpack(Protocol):
    """`engine.unpacking.unpack`: a sandboxed child writes a layer's files. `progress` hears of compressed bytes read."""

    def __call__(
        self,
        zygote: Any,
        source: int,
        target: UnpackTarget,
        *,
        expect_diff_id: str | None,
        progress: Callable[[int], None] | None,
    ) -> Awaitable[Unpacked]: ...


@dataclass(frozen=True, slots=True)
class Built:
    """A committed layer. `parent` is "" for the lowest."""

    diff_id: str
    parent: str
    size: int


class Layers:
    """`built` is every committed layer by chain ID. `guard` is held while something is removed and while somebody looks
    whether a layer is there."""

    def __init__(self, storage: Storage, content: ContentStore, zygote: Any, unpack: Unpack, nursery: trio.Nursery) -> None:
        self.built: dict[str, Built] = {}
        self.guard = trio.Lock()
        self._storage, self._content = storage, content
        self._zygote, self._unpack = zygote, unpack
        self._shared: SharedWork[Built] = SharedWork(nursery)

    async def sweep(self) -> list[str]:
        """At boot: drop half-made snapshots, and init layers of what is gone; return the chain IDs that storage has."""
        keys = set(await self._storage.keys())
        for key in keys:
            below = chain_of_init_layer(key)
            if key.startswith(_ACTIVE) or (below and below not in keys):
                try:
                    await self._storage.remove(key)
                except OrlopError as error:
                    log.warning("a half-made layer stays until the next start: %s", error)
        return [key for key in keys if key.startswith("sha256:")]

    async def size(self, chain_id: str) -> int:
        """Bytes of file content in the layer alone: what Docker calls a layer's size."""
        return (await self._storage.usage(chain_id)).size

    async def found(self, chain_ids: Iterable[str]) -> None:
        """Layers that storage has and no row tells of."""
        for chain_id in chain_ids:
            try:
                size = await self.size(chain_id)
            except OrlopError as error:
                log.warning("layer %s: %s", chain_id[:19], error)
                size = 0
            self.built[chain_id] = Built("", "", size)

    async def build(
        self, chain_id: str, parent: str, blob: str, diff_id: str, report: Report, progress: Callable[[Report, int], None]
    ) -> Built:
        """Have the layer: unpack `blob` on top of `parent`, unless it is there. `progress` makes a record of bytes."""

        async def work(share: Report) -> Built:
            if chain_id not in self.built:
                self.built[chain_id] = await self._make(chain_id, parent, blob, diff_id, lambda n: progress(share, n))
            return self.built[chain_id]

        return await self._shared.run(chain_id, work, report)

    async def _make(self, chain_id: str, parent: str, blob: str, diff_id: str, progress: Callable[[int], None]) -> Built:
        await self._into(chain_id, parent, blob, diff_id, progress)
        return Built(diff_id, parent, await self.size(chain_id))

    async def make_first(self, blob: str, hold: Callable[[str], Awaitable[None]]) -> tuple[str, Built]:
        """Unpack a lowest layer whose diffID nobody knows yet; `hold` is told its chain ID before it is committed."""
        diff_id = (await self._into(None, "", blob, None, None, hold)).diff_id
        built = self.built[diff_id] = Built(diff_id, "", await self.size(diff_id))
        return diff_id, built

    async def _into(
        self,
        chain_id: str | None,
        parent: str,
        blob: str,
        diff_id: str | None,
        progress: Callable[[int], None] | None,
        hold: Callable[[str], Awaitable[None]] | None = None,
    ) -> Unpacked:
        key = half_made()
        source = self._content.open(blob)
        try:
            await self._storage.prepare(key, parent or None)
            target = await self._storage.unpack_target(key)
            unpacked = await self._unpack(self._zygote, source, target, expect_diff_id=diff_id, progress=progress)
            if hold is not None:
                await hold(chain_id or unpacked.diff_id)
            await self._storage.commit(key, chain_id or unpacked.diff_id)
            return unpacked
        finally:
            os.close(source)
            with trio.move_on_after(30, shield=True):
                await self._storage.remove(key)

    def depth(self, chain_id: str) -> int:
        """How many layers lie below."""
        result = 0
        while (built := self.built.get(chain_id)) is not None and built.parent:
            result, chain_id = result + 1, built.parent
        return result

    async def remove(self, chain_ids: Iterable[str]) -> list[tuple[str, int]]:
        """Remove layers, highest first; those that others stand on (a container's root, say) stay. Returns what went,
        with sizes, in order. The caller holds `guard`."""
        removed: list[tuple[str, int]] = []
        waiting = sorted(chain_ids, key=self.depth, reverse=True)
        while waiting:
            blocked = []
            for chain_id in waiting:
                try:
                    await self._storage.remove(init_layer(chain_id))
                    await self._storage.remove(chain_id)
                except Conflict:
                    blocked.append(chain_id)
                    continue
                built = self.built.pop(chain_id, None)
                removed.append((chain_id, built.size if built else 0))
            if len(blocked) == len(waiting):
                break
            waiting = blocked  # after a crash nobody knows their order: some may be free now
        return removed
