"""Conformance suite for storage drivers, and a verified fake.

    class TestMine(StorageSuite):
        @pytest.fixture
        def factory(self):
            return MyDriver                     # StorageContext -> Storage

A driver with `LayerStream` gets most layers as tar streams. The suite runs the program that the driver names, without a
sandbox.

The suite opens the driver on an empty directory, and opens it again to test a restart. As root it makes the driver's mounts,
in new mount namespaces. Without root it can test only drivers whose mounts are a single bind mount.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from orlop_sdk import (
    Conflict,
    DeferredSync,
    InvalidParameter,
    LayerRebase,
    LayerStream,
    NotFound,
    OrlopError,
    Storage,
    StorageAudit,
    StorageCapabilities,
    StorageContext,
)

from ._fake_storage import FakeStorage
from ._members import stream_members, unpack_members
from ._mounted import ReadOnlyError, apply, look
from .durability import recorded

__all__ = ["FakeStorage", "StorageSuite", "unpack_members"]

Factory = Callable[[StorageContext], Storage]


async def _layer(driver: Storage, name: str, parent: str | None, *members: tuple[str, bytes | None]) -> None:
    """Pull a layer: prepare, unpack or stream, commit."""
    await driver.prepare(f"pull-{name}", parent)
    await _write(driver, f"pull-{name}", *members)
    await driver.commit(f"pull-{name}", name)


async def _write(driver: Storage, key: str, *members: tuple[str, bytes | None]) -> None:
    if isinstance(driver, LayerStream):
        target = await driver.stream_target(key)
        await driver.stream_written(key, await trio.to_thread.run_sync(stream_members, target, *members))
    else:
        unpack_members(await driver.unpack_target(key), *members)


class StorageSuite:
    """Tests for every storage driver. Override the fixture `factory`."""

    @pytest.fixture
    def factory(self) -> Factory:
        raise pytest.UsageError("a subclass of StorageSuite must override the fixture `factory`: StorageContext -> Storage")

    @pytest.fixture
    def context(self, tmp_path: Path) -> StorageContext:
        root = tmp_path / "storage"
        root.mkdir(0o710)
        return StorageContext(str(root))

    @pytest.fixture
    def driver(self, factory: Factory, context: StorageContext) -> Storage:
        return factory(context)

    def test_is_a_storage_driver(self, driver: Storage) -> None:
        assert isinstance(driver, Storage), "the factory's object lacks a method of orlop_sdk.Storage"
        assert isinstance(driver.capabilities, StorageCapabilities)
        assert driver.capabilities.max_depth >= 100, "images of 100 layers exist"

    def test_snapshot_is_prepared_committed_and_removed(self, driver: Storage) -> None:
        async def main() -> None:
            assert list(await driver.keys()) == [], "keys(): an empty store has none"
            await driver.prepare("pull-1", None)
            assert list(await driver.keys()) == ["pull-1"], "keys(): active snapshots are listed"
            unpack_members(await driver.unpack_target("pull-1"), ("etc", None), ("etc/motd", b"hello"))
            await driver.commit("pull-1", "sha256:aa")
            assert list(await driver.keys()) == ["sha256:aa"], "commit(): the snapshot has its new key only"
            await driver.prepare("c1-init", "sha256:aa")
            await driver.remove("c1-init")
            await driver.remove("sha256:aa")
            assert list(await driver.keys()) == [], "remove(): the key is gone at once"

        trio.run(main)

    def test_audit_of_a_sound_store_finds_nothing(self, factory: Factory, context: StorageContext) -> None:
        """`audit` reports nothing on a sound store, even as the first call (drivers with `StorageAudit`)."""

        async def main() -> None:
            driver = factory(context)
            if not isinstance(driver, StorageAudit):
                return
            assert list(await driver.audit()) == [], "audit(): an empty store"
            await _layer(driver, "base", None, ("a", b"1"))
            await _layer(driver, "top", "base", ("b", b"1"))
            await driver.prepare("c", "top")
            await driver.prepare("gone", "top")
            await driver.remove("gone")
            assert list(await driver.audit()) == [], "audit(): layers, a container, one that was removed"
            again = factory(context)
            assert isinstance(again, StorageAudit)
            assert list(await again.audit()) == [], "audit(): needs no other call before"
            assert sorted(await again.keys()) == ["base", "c", "top"]

        trio.run(main)

    def test_prepare_can_be_repeated(self, driver: Storage) -> None:
        async def main() -> None:
            await _layer(driver, "base", None, ("a", b"1"))
            await _layer(driver, "other", None, ("a", b"2"))
            await driver.prepare("c", "base")
            apply((await driver.unpack_target("c")).directory, [["write", "kept", "x"]])
            await driver.prepare("c", "base")
            target = await driver.unpack_target("c")
            assert os.path.exists(os.path.join(target.directory, "kept")), "prepare() of what is there must not empty it"
            with pytest.raises(Conflict):
                await driver.prepare("c", "other")
            with pytest.raises(Conflict):
                await driver.prepare("c", None)
            with pytest.raises(Conflict):
                await driver.prepare("base", None)
            with pytest.raises(NotFound):
                await driver.prepare("d", "missing")
            with pytest.raises(Conflict):
                await driver.prepare("d", "c")
            assert "d" not in await driver.keys(), "prepare() that failed must leave nothing"

        trio.run(main)

    def test_commit_can_be_repeated(self, driver: Storage) -> None:
        async def main() -> None:
            await _layer(driver, "base", None, ("a", b"first"))
            await driver.commit("pull-base", "base")  # called again, as after a crash that lost the first result
            await driver.prepare("second", None)
            unpack_members(await driver.unpack_target("second"), ("a", b"second"))
            await driver.commit("second", "base")
            assert list(await driver.keys()) == ["base"], "commit() under a committed name drops the active snapshot"
            assert await look(await driver.mounts("base")) == {"a": "first"}, "commit() must keep what was committed first"
            with pytest.raises(NotFound):
                await driver.commit("missing", "new")
            await driver.prepare("x", None)
            await driver.prepare("y", None)
            with pytest.raises(Conflict):
                await driver.commit("x", "y")
            with pytest.raises(Conflict):
                await driver.unpack_target("base")

        trio.run(main)

    def test_remove_can_be_repeated_and_refuses_parents(self, driver: Storage) -> None:
        async def main() -> None:
            await driver.remove("missing")
            await _layer(driver, "base", None, ("a", b""))
            await driver.prepare("c", "base")
            with pytest.raises(Conflict):
                await driver.remove("base")
            await driver.remove("c")
            await driver.remove("c")
            await driver.prepare("c", None)
            assert await look(await driver.mounts("c")) == {}, "a key used again must not show what it held before"
            await driver.remove("base")
            with pytest.raises(NotFound):
                await driver.prepare("d", "base")

        trio.run(main)

    def test_remove_does_not_wait_for_the_disk(self, driver: Storage) -> None:
        async def main() -> None:
            await driver.prepare("big", None)
            members = [(f"d{n // 50}/f{n}", b"") for n in range(1500)]
            await trio.to_thread.run_sync(unpack_members, await driver.unpack_target("big"), *members)
            started = time.monotonic()
            await driver.remove("big")
            assert time.monotonic() - started < 0.5, "remove() must rename aside and delete later"

        trio.run(main)

    def test_unknown_and_invalid_keys_are_refused(self, driver: Storage) -> None:
        async def main() -> None:
            for call in (driver.mounts, driver.unpack_target, driver.usage, driver.changes, driver.describe):
                with pytest.raises(NotFound):
                    await call("missing")
            for key in ("", "a/b", "..", "a" * 129, "ä"):
                with pytest.raises(InvalidParameter):
                    await driver.prepare(key, None)
            with pytest.raises(InvalidParameter):
                await driver.prepare("c", None, options={"no-such-option": "1"})

        trio.run(main)

    def test_children_see_their_parents_without_changing_them(self, driver: Storage) -> None:
        async def main() -> None:
            await _layer(driver, "one", None, ("a", b"1"), ("d", None), ("d/x", b"x"))
            await _layer(driver, "two", "one", ("b", b"2"))
            await driver.prepare("c", "two")
            seen = await look(await driver.mounts("c"), ["write", "a", "changed"], ["remove", "d"], ["write", "new/f", "n"])
            assert seen == {"a": "changed", "b": "2", "new": None, "new/f": "n"}
            assert await look(await driver.mounts("c")) == seen, "what was written must be there at the next mount"
            assert await look(await driver.mounts("two")) == {"a": "1", "b": "2", "d": None, "d/x": "x"}
            assert await look(await driver.mounts("one")) == {"a": "1", "d": None, "d/x": "x"}

        trio.run(main)

    def test_read_only_mounts_refuse_writes(self, driver: Storage) -> None:
        async def main() -> None:
            await _layer(driver, "one", None, ("a", b"1"))
            await _layer(driver, "two", "one", ("b", b"2"))
            await driver.prepare("c", "two")
            for key, readonly in (("one", False), ("two", False), ("c", True)):
                with pytest.raises(ReadOnlyError):
                    await look(await driver.mounts(key, readonly=readonly), ["write", "new", ""])
            await look(await driver.mounts("c", readonly=True))
            assert await look(await driver.mounts("c"), ["write", "new", "1"]) == {"a": "1", "b": "2", "new": "1"}

        trio.run(main)

    def test_volatile_mounts_can_be_mounted_again(self, driver: Storage) -> None:
        async def main() -> None:
            await _layer(driver, "one", None, ("a", b"1"))
            await driver.prepare("c", "one")
            await look(await driver.mounts("c", volatile=True), ["write", "b", "2"])
            seen = await look(await driver.mounts("c", volatile=True), ["write", "c", "3"])
            assert seen == {"a": "1", "b": "2", "c": "3"}, "a root that was mounted volatile must mount again"
            assert await look(await driver.mounts("c")) == seen

        trio.run(main)

    def test_whiteouts_delete_entries_of_lower_layers(self, driver: Storage) -> None:
        async def main() -> None:
            below = (("a", b"1"), ("d", None), ("d/x", b"x"), ("o", None), ("o/old", b"o"), ("k", b""))
            await _layer(driver, "one", None, *below)
            above = ((".wh.a", b""), (".wh.d", b""), ("o", None), ("o/.wh..wh..opq", b""), ("o/new", b"n"))
            await _layer(driver, "two", "one", *above)
            await driver.prepare("c", "two")
            assert await look(await driver.mounts("c")) == {"k": "", "o": None, "o/new": "n"}, "a layer's .wh. entries hide"
            await _layer(driver, "three", "two", ("d", None), ("d/again", b"2"))
            await driver.prepare("e", "three")
            seen = await look(await driver.mounts("e"))
            assert seen == {"d": None, "d/again": "2", "k": "", "o": None, "o/new": "n"}, "what was deleted must not return"

        trio.run(main)

    def test_changes_lists_added_modified_and_deleted_paths(self, driver: Storage) -> None:
        async def main() -> None:
            base = (("etc", None), ("etc/a", b"1"), ("etc/b", b"2"), ("gone", None), ("gone/x", b""), ("k", b""))
            await _layer(driver, "base", None, *base)
            await driver.prepare("c", "base")
            assert list(await driver.changes("c")) == [], "changes(): nothing was done yet"
            await look(
                await driver.mounts("c"),
                ["write", "etc/a", "changed"],
                ["remove", "etc/b"],
                ["remove", "gone"],
                ["write", "new/deep/f", ""],
                ["chmod", "k", 0o600],
            )
            assert [(change.path, change.kind.name) for change in await driver.changes("c")] == [
                ("/etc", "MODIFIED"),
                ("/etc/a", "MODIFIED"),
                ("/etc/b", "DELETED"),
                ("/gone", "DELETED"),
                ("/k", "MODIFIED"),
                ("/new", "ADDED"),
                ("/new/deep", "ADDED"),
                ("/new/deep/f", "ADDED"),
            ], "changes(): Docker's kinds, parents included, only the top of what was deleted"

        trio.run(main)

    def test_changes_of_a_replaced_directory_are_complete(self, driver: Storage) -> None:
        async def main() -> None:
            base = (("d", None), ("d/keep", b"1"), ("d/lost", b"2"), ("d/sub", None), ("d/sub/x", b""))
            await _layer(driver, "base", None, *base)
            await driver.prepare("c", "base")
            await look(await driver.mounts("c"), ["remove", "d"], ["mkdir", "d"], ["write", "d/keep", "other"])
            assert [(change.path, change.kind.name) for change in await driver.changes("c")] == [
                ("/d", "MODIFIED"),
                ("/d/keep", "MODIFIED"),
                ("/d/lost", "DELETED"),
                ("/d/sub", "DELETED"),
            ]

        trio.run(main)

    def test_usage_counts_only_the_snapshot_itself(self, driver: Storage) -> None:
        async def main() -> None:
            await _layer(driver, "base", None, ("a", b"x" * 1000), ("b", b"y" * 50))
            await _layer(driver, "top", "base", ("c", b"z" * 7))
            await driver.prepare("c", "top")
            sizes = [(await driver.usage(key)).size for key in ("base", "top", "c")]
            assert sizes == [1050, 7, 0], "usage(): bytes of file content, without the parents'"
            await look(await driver.mounts("c"), ["write", "new", "12345"])
            usage = await driver.usage("c")
            assert (usage.size, usage.inodes) == (5, 1), "usage(): an active snapshot is counted anew each time"

        trio.run(main)

    def test_snapshots_survive_a_restart(self, factory: Factory, context: StorageContext) -> None:
        async def before() -> None:
            driver = factory(context)
            await _layer(driver, "one", None, ("a", b"1"))
            await _layer(driver, "two", "one", ("b", b"2"))
            await driver.prepare("c", "two")
            await look(await driver.mounts("c"), ["write", "w", "3"])
            await driver.prepare("gone", "two")
            await driver.remove("gone")

        async def after() -> None:
            driver = factory(context)
            assert sorted(await driver.keys()) == ["c", "one", "two"]
            with pytest.raises(Conflict):
                await driver.remove("two")
            with pytest.raises(Conflict):
                await driver.unpack_target("one")
            await driver.prepare("c", "two")
            assert await look(await driver.mounts("c")) == {"a": "1", "b": "2", "w": "3"}
            assert [change.path for change in await driver.changes("c")] == ["/w"]
            for key in ("c", "two", "one"):
                await driver.remove(key)
            assert list(await driver.keys()) == []

        trio.run(before)
        trio.run(after)

    def test_layers_are_accepted_as_stream_and_directory(self, factory: Factory, context: StorageContext) -> None:
        """A driver with `LayerStream` also accepts a directory, such as the layer with a container's mount points."""

        async def main() -> None:
            driver = factory(context)
            if not isinstance(driver, LayerStream):
                return
            await _layer(driver, "one", None, ("a", b"1"), ("d", None), ("d/x", b"x"))
            await driver.prepare("init", "one")
            unpack_members(await driver.unpack_target("init"), ("b", b"2"), (".wh.a", b""))
            await driver.commit("init", "two")
            await _layer(driver, "three", "two", ("d/y", b"y"), ("d/.wh.x", b""))
            await driver.prepare("c", "three")
            seen = {"b": "2", "d": None, "d/y": "y"}
            assert await look(await driver.mounts("c")) == seen
            for key in ("base", "one", "three"):
                with pytest.raises((Conflict, NotFound)):
                    await driver.stream_target(key)
            again = factory(context)
            assert await look(await again.mounts("c"), ["remove", "d/y"]) == {"b": "2", "d": None}
            assert [(change.path, change.kind.name) for change in await again.changes("c")] == [
                ("/d", "MODIFIED"),
                ("/d/y", "DELETED"),
            ]

        trio.run(main)

    def test_failed_stream_can_be_written_again(self, driver: Storage) -> None:
        """If a program has failed half-way, the next `stream_target` starts with an empty layer."""

        async def main() -> None:
            if not isinstance(driver, LayerStream):
                return
            await driver.prepare("pull", None)
            target = await driver.stream_target("pull")
            stream_members(target, ("a", b"first"))
            await driver.stream_written("pull", stream_members(await driver.stream_target("pull"), ("b", b"second")))
            await driver.commit("pull", "base")
            assert await look(await driver.mounts("base")) == {"b": "second"}
            assert (await driver.usage("base")).size == 6

        trio.run(main)

    def test_unsynced_commit_is_made_durable_later(self, factory: Factory, context: StorageContext) -> None:
        """Only `make_durable` syncs the files, and the snapshot can be used before that call (drivers with
        `DeferredSync`)."""

        async def main() -> None:
            driver = factory(context)
            if not isinstance(driver, DeferredSync):
                return
            await driver.prepare("pull", None)
            await _write(driver, "pull", ("a", b"1"))
            with pytest.raises(Conflict):
                await driver.make_durable("pull")
            with recorded() as steps:
                await driver.commit_unsynced("pull", "base")
                await driver.commit_unsynced("pull", "base")  # as after a crash that lost the first call's result
            assert not [step for step in steps if step[0] == "sync"], "commit_unsynced() must not wait for the disk"
            assert await look(await driver.mounts("base")) == {"a": "1"}
            await driver.prepare("upper", "base")
            with recorded() as steps:
                await driver.make_durable("base")
            assert [step for step in steps if step[0] == "sync"], "make_durable() must sync"
            assert sorted(await factory(context).keys()) == ["base", "upper"]
            with pytest.raises(NotFound):
                await driver.make_durable("unknown")

        trio.run(main)

    def test_commit_sets_the_parent_of_a_layer(self, factory: Factory, context: StorageContext) -> None:
        """Layers are written before the layers below exist, and committed in order (drivers with `LayerRebase`)."""

        async def main() -> None:
            driver = factory(context)
            if not isinstance(driver, LayerRebase):
                return
            assert driver.capabilities.overlay_whiteouts, "commit_on(): needs layers that do not depend on those below"
            await driver.prepare("pull-two", None)
            await _write(driver, "pull-two", (".wh.a", b""), ("o", None), ("o/.wh..wh..opq", b""), ("o/new", b"n"))
            with pytest.raises(NotFound):
                await driver.commit_on("pull-two", "two", "one")
            await driver.prepare("pull-one", None)
            with pytest.raises(Conflict):
                await driver.commit_on("pull-two", "two", "pull-one")
            assert sorted(await driver.keys()) == ["pull-one", "pull-two"], "commit_on() that failed must change nothing"
            await _write(driver, "pull-one", ("a", b"1"), ("k", b""), ("o", None), ("o/old", b"o"))
            await driver.commit("pull-one", "one")
            await driver.commit_on("pull-two", "two", "one")
            await driver.commit_on("pull-two", "two", "one")  # called again, as after a crash that lost the first result
            assert sorted(await driver.keys()) == ["one", "two"]
            for opened in (driver, factory(context)):
                assert await look(await opened.mounts("two")) == {"k": "", "o": None, "o/new": "n"}
                with pytest.raises(Conflict):
                    await opened.remove("one")
                if isinstance(opened, StorageAudit):
                    assert list(await opened.audit()) == []

        trio.run(main)

    def test_commit_on_refuses_another_parent_and_ignores_duplicates(
        self, factory: Factory, context: StorageContext
    ) -> None:
        async def main() -> None:
            driver = factory(context)
            if not isinstance(driver, LayerRebase):
                return
            await _layer(driver, "one", None, ("a", b"1"))
            await _layer(driver, "other", None, ("b", b"2"))
            await driver.prepare("pull", "one")
            with pytest.raises(Conflict):
                await driver.commit_on("pull", "two", "other")
            await driver.commit_on("pull", "two", "one")
            for n in range(2):  # two pulls make the same layer
                await driver.prepare(f"pull-{n}", None)
                await driver.commit_on(f"pull-{n}", "three", "two")
            for key in ("three", "two", "one", "other"):
                await driver.remove(key)
            assert list(await driver.keys()) == []

        trio.run(main)

    def test_concurrent_commit_and_removal_of_a_parent_conflict(self, driver: Storage) -> None:
        async def main() -> None:
            if not isinstance(driver, LayerRebase):
                return
            await _layer(driver, "one", None, ("a", b"1"))
            await driver.prepare("pull", None)
            refused: list[str] = []

            async def attempt(call: Callable[[], Any]) -> None:
                try:
                    await call()
                except OrlopError as error:
                    refused.append(type(error).__name__)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(attempt, lambda: driver.commit_on("pull", "two", "one"))
                nursery.start_soon(attempt, lambda: driver.remove("one"))
            assert refused in (["NotFound"], ["Conflict"]), "commit_on(): a parent goes, or gets a child: never both"

        trio.run(main)

    def test_concurrent_calls_succeed(self, driver: Storage) -> None:
        async def main() -> None:
            await _layer(driver, "base", None, ("a", b"1"))
            async with trio.open_nursery() as nursery:
                for n in range(20):
                    nursery.start_soon(driver.prepare, f"c{n}", "base")
                    nursery.start_soon(driver.prepare, "same", "base")
                for name in ("l0", "l1"):
                    nursery.start_soon(_layer, driver, name, "base", ("x", b""))
            assert sorted(await driver.keys()) == sorted([*(f"c{n}" for n in range(20)), "base", "same", "l0", "l1"])
            await driver.prepare("p", None)
            await driver.prepare("q", None)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(driver.commit, "p", "one-layer")
                nursery.start_soon(driver.commit, "q", "one-layer")
            assert {"p", "q", "one-layer"} & set(await driver.keys()) == {"one-layer"}, "two pulls of one layer leave one"
            refused: list[str] = []

            async def attempt(call: Callable[[], Any]) -> None:
                try:
                    await call()
                except OrlopError as error:
                    refused.append(type(error).__name__)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(attempt, lambda: driver.prepare("child", "one-layer"))
                nursery.start_soon(attempt, lambda: driver.remove("one-layer"))
            assert refused in (["NotFound"], ["Conflict"]), "a parent goes, or gets a child: never both"

        trio.run(main)

    def test_cancelled_calls_can_be_repeated(self, driver: Storage) -> None:
        async def main() -> None:
            await _layer(driver, "base", None, ("a", b"1"))
            with trio.CancelScope() as scope:
                scope.cancel()
                await driver.prepare("c", "base")
            await driver.prepare("c", "base")
            with trio.CancelScope() as scope:
                scope.cancel()
                await driver.commit("c", "top")
            await driver.commit("c", "top")
            await driver.remove("top")
            await driver.remove("base")

        trio.run(main)

    def test_snapshots_may_be_as_deep_as_max_depth(self, driver: Storage) -> None:
        async def main() -> None:
            depth = min(driver.capabilities.max_depth, 128)
            parent = None
            for n in range(depth):
                await _layer(driver, f"l{n}", parent, (f"f{n}", b""))
                parent = f"l{n}"
            await driver.prepare("c", parent)
            seen = await look(await driver.mounts("c"), ["write", "top", "1"])
            assert len(seen) == depth + 1, "max_depth layers and a container on top must mount"
            await driver.remove("c")
            if driver.capabilities.max_depth == depth:
                await _layer(driver, "one-more", parent, ("x", b""))
                with pytest.raises(OrlopError, match="depth"):
                    await driver.prepare("c", "one-more")

        trio.run(main)

    def test_describe_returns_text(self, driver: Storage) -> None:
        async def main() -> None:
            await _layer(driver, "base", None, ("a", b"1"))
            await driver.prepare("c", "base")
            described = await driver.describe("c")
            assert all(isinstance(text, str) for item in described.items() for text in item)
            rows = await driver.status()
            assert all(isinstance(name, str) and isinstance(value, str) for name, value in rows), "status(): pairs of text"

        trio.run(main)
