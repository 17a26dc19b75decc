"""Layers of an image that are unpacked at the same time, for a storage driver with `LayerRebase`."""

import os
from pathlib import Path

import pytest
import trio
import trio.testing

from orlop_engine.images.content import ContentStore
from orlop_engine.images.documents import digest
from orlop_engine.images.layers import Layers
from orlop_engine.unpacking import Unpacked
from orlop_sdk import DriverError, NotFound, StorageContext, Usage
from orlop_sdk.testing import FakeStorage

LAYERS = [(f"sha256:{n}" + "0" * 63, f"layer {n}".encode()) for n in range(3)]  # chain ID, content of the blob


async def until(condition):
    """Wait until the work of threads makes a condition true."""
    with trio.fail_after(30):
        while not condition():  # noqa: ASYNC110 - threads set no event
            await trio.sleep(0.001)


class Rebasing(FakeStorage):
    """A storage driver that records the order in which layers are committed, and their parents."""

    def __init__(self, context):
        super().__init__(context)
        self.commits = []

    async def commit(self, key, name):
        await super().commit(key, name)
        self.commits.append((name, None))

    async def commit_on(self, key, name, parent):
        if parent not in await self.keys():
            raise NotFound(parent)
        await super().commit(key, name)
        self.commits.append((name, parent))


class Unpacking:
    """An unpacker that completes a blob once `finish` has been called for it. `running` are the blobs that are being
    unpacked."""

    def __init__(self):
        self.running, self.done, self.most, self._finish = set(), [], 0, {}

    def finish(self, content):
        self._finish.setdefault(content, trio.Event()).set()

    async def __call__(self, zygote, source, target, *, expect_diff_id, progress):
        content = os.pread(source, 100, 0)
        self.running.add(content)
        self.most = max(self.most, len(self.running))
        await self._finish.setdefault(content, trio.Event()).wait()
        self.running.remove(content)
        self.done.append(content)
        if content == b"damaged":
            raise DriverError("damaged")
        Path(target.directory, "file").write_bytes(content)
        return Unpacked(expect_diff_id, len(content), 1, Usage(len(content)))


class Fixture:
    def __init__(self, root, nursery, storage=Rebasing):
        for name in ("storage", "content"):
            os.mkdir(root / name)
        content = ContentStore(str(root / "content"))
        content.prepare()
        self.content, self.unpack = content, Unpacking()
        self.storage = storage(StorageContext(str(root / "storage")))
        self.layers = Layers(self.storage, content, None, self.unpack, nursery)

    async def build(self, number, content=None):
        chain_id, data = LAYERS[number]
        blob = await self.content.put(content or data)
        parent = LAYERS[number - 1][0] if number else ""
        return await self.layers.build(chain_id, parent, blob, digest(data), lambda _: None, lambda *_: None)


@pytest.fixture
def run(tmp_path):
    def run(test, **options):
        async def main():
            async with trio.open_nursery() as nursery:
                await test(Fixture(tmp_path, nursery, **options), nursery)
                nursery.cancel_scope.cancel()

        trio.run(main)

    return run


def test_layers_are_unpacked_concurrently_and_committed_in_order(run):
    async def test(fixture, nursery):
        assert fixture.layers.independent
        async with trio.open_nursery() as building:
            for number in (1, 0):
                building.start_soon(fixture.build, number)
            await until(lambda: fixture.unpack.running == {data for _, data in LAYERS[:2]})
            fixture.unpack.finish(LAYERS[1][1])
            await until(lambda: fixture.layers._awaited)
            assert fixture.storage.commits == []  # the layer's parent does not exist yet
            fixture.unpack.finish(LAYERS[0][1])
        assert fixture.storage.commits == [(LAYERS[0][0], None), (LAYERS[1][0], LAYERS[0][0])]
        assert [key for key in await fixture.storage.keys() if key.startswith("extract-")] == []
        assert fixture.layers.built[LAYERS[1][0]].parent == LAYERS[0][0]

    run(test)


def test_driver_without_rebase_unpacks_a_layer_after_its_parent(run):
    async def test(fixture, nursery):
        assert not fixture.layers.independent
        for number in (0, 1):
            fixture.unpack.finish(LAYERS[number][1])
            await fixture.build(number)
        assert sorted(await fixture.storage.keys()) == [LAYERS[0][0], LAYERS[1][0]]

    run(test, storage=FakeStorage)


def test_concurrent_unpacks_are_limited(run):
    async def test(fixture, nursery):
        fixture.layers._writing.total_tokens = 2
        async with trio.open_nursery() as building:
            for number in range(3):
                building.start_soon(fixture.build, number)
            await until(lambda: fixture.layers._writing.statistics().tasks_waiting == 1 and len(fixture.unpack.running) == 2)
            for _, data in LAYERS:
                fixture.unpack.finish(data)
        assert fixture.unpack.most == 2
        assert [name for name, _ in fixture.storage.commits] == [chain_id for chain_id, _ in LAYERS]

    run(test)


def test_layer_waits_for_a_parent_layer_that_another_pull_unpacks_again(run):
    """The pull that began a layer fails at the layer below. Another pull waits for both layers and has a valid blob."""

    async def test(fixture, nursery):
        outcome = []

        async def pull(content):
            try:
                async with trio.open_nursery() as building:
                    building.start_soon(fixture.build, 0, content)
                    building.start_soon(fixture.build, 1)
                outcome.append("done")
            except* DriverError:
                outcome.append("failed")

        async with trio.open_nursery() as pulls:
            pulls.start_soon(pull, b"damaged")
            await until(lambda: len(fixture.unpack.running) == 2)
            pulls.start_soon(pull, None)
            await until(lambda: all(fixture.layers._shared.waiting(chain_id) == 2 for chain_id, _ in LAYERS[:2]))
            fixture.unpack.finish(LAYERS[1][1])
            fixture.unpack.finish(b"damaged")
            await until(lambda: outcome == ["failed"])
            fixture.unpack.finish(LAYERS[0][1])
        assert outcome == ["failed", "done"]
        assert fixture.storage.commits == [(LAYERS[0][0], None), (LAYERS[1][0], LAYERS[0][0])]

    run(test)


def test_cancelled_wait_for_a_parent_layer_leaves_no_snapshot(run):
    async def test(fixture, nursery):
        async with trio.open_nursery() as building:
            building.start_soon(fixture.build, 1)
            fixture.unpack.finish(LAYERS[1][1])
            await until(lambda: fixture.layers._awaited)
            assert len(await fixture.storage.keys()) == 1
            building.cancel_scope.cancel()
        await until(lambda: not fixture.layers._shared.waiting(LAYERS[1][0]) and not fixture.layers._shared._entries)
        assert list(await fixture.storage.keys()) == []

    run(test)


class Committing(FakeStorage):
    """A driver whose commit succeeds, although its caller is cancelled meanwhile."""

    committing = trio.Event()

    async def commit(self, key, name):
        with trio.CancelScope(shield=True):
            await super().commit(key, name)
            self.committing.set()
            await trio.testing.wait_all_tasks_blocked()


def test_layer_whose_commit_succeeds_during_a_cancelled_pull_is_known_to_the_daemon(run):
    """If the daemon did not know the layer, nothing would remove the layer before the next start of the daemon."""

    async def test(fixture, nursery):
        fixture.unpack.finish(LAYERS[0][1])
        async with trio.open_nursery() as building:
            building.start_soon(fixture.build, 0)
            await fixture.storage.committing.wait()
            building.cancel_scope.cancel()
        chain_id = LAYERS[0][0]
        assert list(await fixture.storage.keys()) == [chain_id]
        assert fixture.layers.built[chain_id].size == len(LAYERS[0][1])
        assert [key for key, _ in await fixture.layers.remove([chain_id])] == [chain_id]
        assert list(await fixture.storage.keys()) == []

    run(test, storage=Committing)
