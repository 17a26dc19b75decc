"""Layers of an image are unpacked at the same time, if the storage driver implements `LayerRebase`."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from tests.registry import docker_archive, image, layer
from tests.registry.fakes import DirectoryStorage, Unpacker, drain, open_images

PARTS = [layer({name: name.encode()}) for name in "abc"]
ARCHIVE = docker_archive({"app:x": image(PARTS)})


class Rebasing(DirectoryStorage):
    async def commit_on(self, key: str, name: str, parent: str) -> None:
        self._path(parent)
        self.parents[key] = parent
        await self.commit(key, name)


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    stream = io.BytesIO(data)
    while piece := stream.read(1 << 16):
        yield piece
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("kind", [DirectoryStorage, Rebasing])
def test_load_unpacks_layers_concurrently_if_the_storage_driver_supports_it(
    tmp_path: Path, kind: type[DirectoryStorage]
) -> None:
    async def main() -> None:
        storage, unpacker = kind(f"{tmp_path}/layers"), Unpacker(gate=trio.Event())
        assert unpacker.gate is not None
        async with open_images(str(tmp_path), storage=storage, unpacker=unpacker) as images, trio.open_nursery() as nursery:
            images.images._image_store.layers._writing.total_tokens = 3
            nursery.start_soon(drain, images.images.load_archive(pieces(ARCHIVE)))
            with trio.fail_after(30):
                wanted = 3 if kind is Rebasing else 1
                while unpacker.count < wanted:  # noqa: ASYNC110 - the archive is stored by threads
                    await trio.sleep(0.001)
            assert [key for key in await storage.keys() if key.startswith("sha256:")] == []
            unpacker.gate.set()
        assert unpacker.count == 3
        chain = [key for key in await storage.keys() if key.startswith("sha256:")]
        assert len(chain) == 3
        top = next(key for key in chain if key not in storage.parents.values())
        depth, key = 0, top
        while (parent := storage.parents[key]) is not None:
            depth, key = depth + 1, parent
        assert depth == 2

    trio.run(main)
