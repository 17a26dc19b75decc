"""The snapshots of builders: which users keep them, and their cleanup when the daemon starts after a crash."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from orlop_engine.building.records import BASE, TABLE, SnapshotRecord, encode
from orlop_engine.building.snapshots import Snapshots, active_key
from orlop_engine.calls import Gate, guard
from orlop_engine.images.content import ContentStore
from orlop_engine.images.image_store import ImageStore
from orlop_engine.images.layers import Built, Layers
from orlop_engine.images.records import Layer
from orlop_kernel.store import Delete, Put, Store
from orlop_sdk import Conflict, DriverError, NotFound, Storage, StorageContext, Unavailable
from orlop_sdk.testing import FakeStorage

CHAIN = "sha256:" + "1" * 64


class Fixture:
    def __init__(self, store: Store, storage: FakeStorage, image_store: ImageStore, nursery: trio.Nursery) -> None:
        self.store, self.storage, self.image_store = store, storage, image_store
        self.snapshots = Snapshots(store, storage, image_store, nursery.start_soon)

    async def made(self, parent: str = "") -> str:
        key = active_key()
        await self.storage.prepare(key, parent or None)
        made = await self.snapshots.commit(key, parent)
        await self.snapshots.settle(made)
        return made

    def rows(self) -> set[str]:
        return {key for key, _ in self.store.load(TABLE)}

    async def keys(self) -> set[str]:
        return set(await self.storage.keys())


@asynccontextmanager
async def booted(path: Path, *, deferred: bool = True) -> AsyncIterator[Fixture]:
    """An image store and a builder's snapshots, as a start of the daemon makes them."""
    (path / "storage").mkdir(exist_ok=True)
    async with Store.open(str(path / "orlop.db")) as store, trio.open_nursery() as nursery:
        storage = FakeStorage(StorageContext(str(path / "storage")))
        if not deferred:
            storage = guard(Gate("fake"), storage, Storage)
        content = ContentStore(str(path / "content"))
        image_store = ImageStore(store, content, Layers(storage, content, None, None, nursery))
        fixture = Fixture(store, storage, image_store, nursery)
        await fixture.snapshots.load(list(store.load(TABLE)))
        await image_store.load()
        await fixture.snapshots.sweep()
        yield fixture
        nursery.cancel_scope.cancel()


def test_committed_snapshots_are_kept_after_a_daemon_start_until_the_builder_removes_them(tmp_path: Path) -> None:
    async def main() -> None:
        async with booted(tmp_path) as one:
            lower = await one.made()
            upper = await one.made(lower)
            left = active_key()
            await one.storage.prepare(left, upper)
        async with booted(tmp_path) as two:
            assert await two.keys() == {lower, upper} == two.rows(), "an active snapshot belongs to a build, which is over"
            with pytest.raises(Conflict):
                await two.snapshots.remove(lower)
            await two.snapshots.remove(upper)
            await two.snapshots.remove(lower)
            assert await two.keys() == set() == two.rows()

    trio.run(main)


def test_repair_removes_rows_without_snapshots_and_adds_missing_rows(tmp_path: Path) -> None:
    async def main() -> None:
        async with booted(tmp_path) as fixture:
            kept = await fixture.made()
            lost = await fixture.made(kept)
            middle = await fixture.made(lost)
            top = await fixture.made(middle)
            stray = active_key()
            await fixture.storage.prepare(stray, None)
            await fixture.store.commit([Delete(TABLE, top), Put(TABLE, "build-unknown", encode(SnapshotRecord("")))])
            for key in (kept, top, "build-unknown"):
                await fixture.snapshots.repair(key)
            assert await fixture.keys() == {kept, lost, middle, top, stray}
            assert fixture.rows() == {kept, lost, middle, top}
            await fixture.snapshots.repair(stray)
            assert await fixture.keys() == {kept, lost, middle, top} == fixture.rows()

            await lose(fixture, lost)
            await fixture.snapshots.repair(lost)
            assert await fixture.keys() == {kept} == fixture.rows(), "snapshots above a lost one cannot be mounted"

    trio.run(main)


async def lose(fixture: Fixture, key: str) -> None:
    """Remove a snapshot from the driver's index, although it has children."""
    (await fixture.storage._all())[key].children = 0
    await fixture.storage.remove(key)


def test_repair_keeps_snapshots_without_a_row_while_rows_may_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "lost_rows", lambda self: True)

    async def main() -> None:
        async with booted(tmp_path) as fixture:
            stray = active_key()
            await fixture.storage.prepare(stray, None)
            await fixture.snapshots.repair(stray)
            assert await fixture.keys() == {stray}

    trio.run(main)


def test_repair_keeps_a_snapshot_that_is_a_layer_of_an_image(tmp_path: Path) -> None:
    async def main() -> None:
        async with booted(tmp_path) as fixture:
            await fixture.storage.prepare("build-new-1", None)
            await fixture.storage.commit("build-new-1", "build-1")
            fixture.image_store.layers.built[CHAIN] = Built(CHAIN, "", 0, "build-1")
            await fixture.snapshots.repair("build-1")
            assert await fixture.keys() == {"build-1"}

    trio.run(main)


def test_daemon_start_removes_snapshots_whose_parent_is_missing(tmp_path: Path) -> None:
    async def main() -> None:
        async with booted(tmp_path) as one:
            kept = await one.made()
            lost = await one.made(kept)
            top = await one.made(lost)
            assert await one.keys() == {kept, lost, top}
            await lose(one, lost)
        async with booted(tmp_path) as two:
            assert await two.keys() == {kept} == two.rows()

    trio.run(main)


def test_snapshot_commit_is_undone_if_its_row_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver's commits are durable."""

    async def main() -> None:
        async with booted(tmp_path, deferred=False) as fixture:
            commit = fixture.store.commit

            async def full(operations: Sequence[Any]) -> None:
                if any(hasattr(operation, "value") for operation in operations):
                    raise Unavailable("no space left on device")
                await commit(operations)

            monkeypatch.setattr(fixture.store, "commit", full)
            with pytest.raises(Unavailable):
                await fixture.made()
            assert await fixture.keys() == set() == fixture.rows()
            assert fixture.snapshots.rows == {}

    trio.run(main)


class SlowDisk:
    """Replaces `make_durable` of a driver. `synced` contains the calls that have ended."""

    def __init__(self, storage: FakeStorage, monkeypatch: pytest.MonkeyPatch) -> None:
        self.proceed, self.failures = trio.Event(), 0
        self.synced: list[str] = []
        self._make_durable = storage.make_durable
        monkeypatch.setattr(storage, "make_durable", self.make_durable)

    async def make_durable(self, key: str) -> None:
        await self.proceed.wait()
        if self.failures:
            self.failures -= 1
            raise DriverError("input/output error")
        await self._make_durable(key)
        self.synced.append(key)


async def committed(fixture: Fixture, parent: str = "") -> str:
    """Commit a snapshot, which may not be durable yet."""
    key = active_key()
    await fixture.storage.prepare(key, parent or None)
    return await fixture.snapshots.commit(key, parent)


def test_row_of_a_snapshot_is_written_after_its_files_and_the_rows_of_its_parents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row of a snapshot is written after the snapshot's files and after the rows of the snapshots below it."""

    async def main() -> None:
        async with booted(tmp_path) as fixture:
            disk = SlowDisk(fixture.storage, monkeypatch)
            lower = await committed(fixture)
            upper = await committed(fixture, lower)
            await fixture.snapshots.packed(lower, "sha256:packed", 77)
            await trio.testing.wait_all_tasks_blocked()
            assert fixture.rows() == set(), "a row must not exist before the files"
            disk.proceed.set()
            await fixture.snapshots.settle(upper)
            assert disk.synced == [lower, upper] and fixture.rows() == {lower, upper}
        async with booted(tmp_path) as again:
            assert again.snapshots.rows[lower].diff_id == "sha256:packed", "the row has what was found meanwhile"
            assert again.snapshots.rows[upper].parent == lower

    trio.run(main)


def test_snapshot_row_that_changes_during_its_write_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with booted(tmp_path) as fixture:
            disk = SlowDisk(fixture.storage, monkeypatch)
            key = await committed(fixture)
            commit, changes = fixture.store.commit, [("sha256:packed", 77)]

            async def change_meanwhile(operations: Any) -> None:
                await commit(operations)
                if changes:
                    await fixture.snapshots.packed(key, *changes.pop())

            monkeypatch.setattr(fixture.store, "commit", change_meanwhile)
            disk.proceed.set()
            await fixture.snapshots.settle(key)
        async with booted(tmp_path) as again:
            assert again.snapshots.rows[key].diff_id == "sha256:packed"

    trio.run(main)


def test_daemon_start_removes_snapshots_that_were_not_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with booted(tmp_path) as one:
            SlowDisk(one.storage, monkeypatch)
            key = await committed(one)
            assert await one.keys() == {key}
        async with booted(tmp_path) as two:
            assert await two.keys() == set() == two.rows()

    trio.run(main)


def test_snapshot_is_made_durable_by_a_second_attempt_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with booted(tmp_path) as fixture:
            disk = SlowDisk(fixture.storage, monkeypatch)
            disk.failures = 2  # the background's call and the first call below fail
            key = await committed(fixture)
            disk.proceed.set()
            await trio.testing.wait_all_tasks_blocked(0.01)
            with pytest.raises(DriverError):
                await fixture.snapshots.settle(key)
            assert fixture.rows() == set()
            await fixture.snapshots.settle(key)
            assert fixture.rows() == {key}

    trio.run(main)


def test_snapshot_removal_waits_until_the_files_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with booted(tmp_path) as fixture:
            disk = SlowDisk(fixture.storage, monkeypatch)
            key = await committed(fixture)
            await trio.testing.wait_all_tasks_blocked()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fixture.snapshots.remove, key)
                await trio.testing.wait_all_tasks_blocked()
                assert await fixture.keys() == {key}
                disk.proceed.set()
            assert await fixture.keys() == set() == fixture.rows()

    trio.run(main)


@pytest.mark.parametrize("lost", [False, True])
def test_daemon_start_removes_snapshots_without_a_row_unless_rows_may_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    """A crash between the driver's commit and the commit of the row leaves a snapshot without a row."""
    monkeypatch.setattr(Store, "lost_rows", lambda self: lost)

    async def main() -> None:
        async with booted(tmp_path) as one:
            key = active_key()
            await one.storage.prepare(key, None)
            await one.storage.commit(key, "build-unknown")
            known = await one.made()
        async with booted(tmp_path) as two:
            assert await two.keys() == ({known, "build-unknown"} if lost else {known})

    trio.run(main)


def test_daemon_start_removes_a_row_whose_snapshot_is_missing(tmp_path: Path) -> None:
    async def main() -> None:
        async with booted(tmp_path) as one:
            key = await one.made()
            await one.storage.remove(key)  # the snapshot is lost, as in a power cut
        async with booted(tmp_path) as two:
            assert two.rows() == set() and two.snapshots.rows == {}
            with pytest.raises(NotFound):
                two.snapshots.check(key)

    trio.run(main)


def test_snapshot_that_is_a_layer_of_an_image_is_not_removed(tmp_path: Path) -> None:
    async def main() -> None:
        async with booted(tmp_path) as fixture:
            key = await fixture.made()
            layers = fixture.image_store.layers
            layers.built[CHAIN] = Built(CHAIN, "", 0, key)
            await fixture.snapshots.remove(key)
            assert await fixture.keys() == {key} == fixture.rows(), "the image needs it"
            await fixture.image_store.collect()  # no image has the layer
            assert await fixture.keys() == set() == fixture.rows()

    trio.run(main)


def test_build_cache_keeps_snapshots_that_images_no_longer_need(tmp_path: Path) -> None:
    async def main() -> None:
        async with booted(tmp_path) as fixture:
            key = await fixture.made()
            layers = fixture.image_store.layers
            layers.built[CHAIN] = Built(CHAIN, "", 77, key)
            collected = await fixture.image_store.collect()
            assert collected.layers == () and CHAIN not in layers.built, "nothing is freed"
            assert await fixture.keys() == {key} == fixture.rows()

    trio.run(main)


def test_removal_of_a_snapshot_in_use_is_deferred_until_the_snapshot_is_unused(tmp_path: Path) -> None:
    async def main() -> None:
        async with booted(tmp_path) as fixture:
            key = await fixture.made()
            with fixture.snapshots.using(key):
                await fixture.snapshots.remove(key)
                await fixture.snapshots.reap()
                assert await fixture.keys() == {key}
            await fixture.snapshots.reap()
            assert await fixture.keys() == set() == fixture.rows()

    trio.run(main)


def test_released_snapshots_are_removed_when_no_image_uses_them_any_more(tmp_path: Path) -> None:
    async def main() -> None:
        async with booted(tmp_path) as one:
            lower = await one.made()
            middle = await one.made(lower)
            one.image_store.layers.built[CHAIN] = Built(CHAIN, "", 0, middle)
            await one.snapshots.remove(middle)
            await one.snapshots.remove(lower)
            assert await one.keys() == {lower, middle}, "an image has the upper one"
        async with booted(tmp_path) as two:  # the image has no row any more
            assert await two.keys() == set() == two.rows()

    trio.run(main)


def test_layers_and_blobs_below_snapshots_are_kept(tmp_path: Path) -> None:
    """The image of the base has been removed. Its layers and blobs are kept, also when the daemon is started again."""

    async def main() -> None:
        async with booted(tmp_path) as one:
            store = one.image_store
            blob = await store.content.put(b"a layer")
            other = await store.content.put(b"of nobody")
            await one.storage.prepare("extract-x", None)
            await one.storage.commit("extract-x", CHAIN)
            store.layers.built[CHAIN] = Built(CHAIN, "", 7)
            with one.snapshots.using(CHAIN):
                await one.snapshots.set_base(CHAIN, (Layer(blob, "", 7, CHAIN, CHAIN, 7),))
                key = await one.made(CHAIN)
            await one.snapshots.reap()
            await store.collect()
            assert store.content.has(blob) and not store.content.has(other)
        async with booted(tmp_path) as two:
            assert two.image_store.content.has(blob) and await two.keys() == {CHAIN, key}
            assert two.rows() == {key, BASE + CHAIN}
            two.snapshots.check(CHAIN)
            await two.snapshots.remove(key)
            assert not two.image_store.content.has(blob)
            assert await two.keys() == set() == two.rows()

    trio.run(main)


def test_base_image_layer_that_is_used_again_during_its_removal_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One build ends while another begins on the same image."""

    async def main() -> None:
        async with booted(tmp_path) as fixture:
            snapshots = fixture.snapshots
            await fixture.storage.prepare("x", None)
            await fixture.storage.commit("x", CHAIN)
            await snapshots.set_base(CHAIN, ())
            commit, forgetting, go_on = fixture.store.commit, trio.Event(), trio.Event()

            async def slow(changes: Sequence[Any]) -> None:
                forgetting.set()
                await go_on.wait()
                await commit(changes)

            monkeypatch.setattr(fixture.store, "commit", slow)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(snapshots.reap)
                await forgetting.wait()
                snapshots.use(CHAIN)
                nursery.start_soon(snapshots.set_base, CHAIN, ())
                await trio.testing.wait_all_tasks_blocked()
                go_on.set()
            snapshots.check(CHAIN)
            assert BASE + CHAIN in fixture.rows()

    trio.run(main)


def test_base_image_layer_is_removed_with_the_last_image_that_uses_it(tmp_path: Path) -> None:
    """The builder does not need the snapshots above the base any more, but an image uses these snapshots as layers."""

    async def main() -> None:
        async with booted(tmp_path) as fixture:
            store, above = fixture.image_store, "sha256:" + "2" * 64
            blob = await store.content.put(b"a layer")
            await fixture.storage.prepare("extract-x", None)
            await fixture.storage.commit("extract-x", CHAIN)
            store.layers.built[CHAIN] = Built(CHAIN, "", 7)
            with fixture.snapshots.using(CHAIN):
                await fixture.snapshots.set_base(CHAIN, (Layer(blob, "", 7, CHAIN, CHAIN, 7),))
                below = await fixture.made(CHAIN)
                key = await fixture.made(below)
            store.layers.built[above] = Built(above, CHAIN, 0, key)
            await fixture.snapshots.remove(key)
            await fixture.snapshots.remove(below)
            assert fixture.rows() == {below, key, BASE + CHAIN}
            await store.collect()  # called as after the removal of the image
            assert not store.content.has(blob)
            assert await fixture.keys() == set() == fixture.rows()

    trio.run(main)


def test_snapshot_row_keeps_the_cache_domain_after_a_restart_of_the_daemon(tmp_path: Path) -> None:
    async def main() -> None:
        async with booted(tmp_path) as one:
            active = active_key()
            await one.storage.prepare(active, None)
            key = await one.snapshots.commit(active, "", "team")
            await one.snapshots.settle(key)
        async with booted(tmp_path) as two:
            assert two.snapshots.rows[key].domain == "team"

    trio.run(main)


def test_damaged_snapshot_rows_are_quarantined(tmp_path: Path) -> None:
    async def main() -> None:
        from orlop_kernel.store import Put

        async with booted(tmp_path) as one:
            await one.store.commit([Put(TABLE, "build-bad", b"{"), Put(TABLE, BASE + "x", b"[]")])
        async with booted(tmp_path) as two:
            assert two.rows() == set()
            assert {key for table, key, _ in two.store.quarantined() if table == TABLE} == {"build-bad", BASE + "x"}

    trio.run(main)
