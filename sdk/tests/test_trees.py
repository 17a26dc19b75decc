"""The base class of storage drivers: the order of its durable steps, and what it undoes after a failure."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from orlop_sdk import Conflict, DriverError, StorageContext
from orlop_sdk.trees import Snapshot, TreeStorage, _storage


class Trees(TreeStorage[Snapshot]):
    """Snapshots without content."""

    name = "trees"
    place = "snapshots"

    def __init__(self, root: Path) -> None:
        super().__init__(StorageContext(str(root), {}))
        self.fails = False

    def create(self, snapshot: Snapshot, directory: str) -> None:
        if self.fails:
            raise OSError(28, "No space left on device")

    @property
    def staged(self) -> list[str]:
        return os.listdir(os.path.join(self.root, ".orlop", "staging"))


def run(work: Callable[[], Any]) -> None:
    trio.run(work)


def test_commit_syncs_the_files_of_a_snapshot_before_its_index_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, order = Trees(tmp_path), list[str]()
    committed = storage.index.commit
    monkeypatch.setattr(_storage, "sync_filesystem", lambda path: order.append(os.path.dirname(path)))
    monkeypatch.setattr(_storage, "fsync_directory", lambda path: order.append(f"directory {path}"))
    monkeypatch.setattr(storage.index, "commit", lambda key, name: (order.append("index"), committed(key, name)))

    async def work() -> None:
        await storage.prepare("a", None)
        await storage.commit("a", "layer")

    run(work)
    place = str(tmp_path / "snapshots")
    assert order == [place, f"directory {place}", "index"]


def test_deferred_commit_seals_the_snapshot_and_syncs_when_it_is_made_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, order = Trees(tmp_path), list[str]()
    monkeypatch.setattr(_storage, "sync_filesystem", lambda path: order.append(os.path.dirname(path)))
    monkeypatch.setattr(_storage, "fsync_directory", lambda path: order.append(f"directory {path}"))
    monkeypatch.setattr(storage, "seal", lambda snapshot: order.append("sealed"))
    monkeypatch.setattr(storage.index, "sync", lambda: order.append("index"))

    async def work() -> None:
        await storage.prepare("a", None)
        await storage.commit_unsynced("a", "layer")
        assert order == ["sealed"]
        await storage.make_durable("layer")

    run(work)
    place = str(tmp_path / "snapshots")
    assert order == ["sealed", place, f"directory {place}", "index"]


def test_a_failed_prepare_leaves_no_directory_and_no_key(tmp_path: Path) -> None:
    storage = Trees(tmp_path)

    async def work() -> None:
        await storage.prepare("base", None)
        await storage.commit("base", "base")
        storage.fails = True
        with pytest.raises(DriverError, match="cannot prepare snapshot a: No space left on device"):
            await storage.prepare("a", "base")
        assert storage.staged == []
        assert await storage.keys() == ["base"]
        await storage.remove("base")  # the base has no children after the failed prepare

    run(work)
    assert trio.run(Trees(tmp_path).keys) == []


def test_committed_snapshot_cannot_be_committed_with_another_key(tmp_path: Path) -> None:
    storage = Trees(tmp_path)

    async def work() -> None:
        await storage.prepare("a", None)
        await storage.commit("a", "a")
        await storage.commit("a", "a")
        with pytest.raises(Conflict, match="cannot commit snapshot a as b: it is committed"):
            await storage.commit("a", "b")
        with pytest.raises(Conflict, match="cannot unpack into snapshot a: it is committed"):
            await storage.unpack_target("a")
        assert await storage.keys() == ["a"]

    run(work)


def test_a_committed_snapshot_is_mounted_read_only(tmp_path: Path) -> None:
    storage = Trees(tmp_path)

    async def work() -> None:
        await storage.prepare("a", None)
        (mount,) = await storage.mounts("a")
        assert "ro" not in mount.options
        (mount,) = await storage.mounts("a", readonly=True)
        assert "ro" in mount.options
        await storage.commit("a", "a")
        (mount,) = await storage.mounts("a")
        assert "ro" in mount.options

    run(work)


def test_a_failed_remove_keeps_the_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Trees(tmp_path)

    def fail(key: str, *, committed: bool) -> None:
        raise OSError(5, "Input/output error")

    async def work() -> None:
        await storage.prepare("a", None)
        with monkeypatch.context() as patch:
            patch.setattr(storage.index, "drop", fail)
            with pytest.raises(DriverError, match="cannot remove snapshot a"):
                await storage.remove("a")
        assert await storage.keys() == ["a"]
        await storage.remove("a")
        assert await storage.keys() == []

    run(work)


def test_repair_removes_only_empty_directories_that_belong_to_no_snapshot(tmp_path: Path) -> None:
    storage = Trees(tmp_path)

    async def work() -> None:
        await storage.prepare("kept", None)
        for name in ("ab" * 32, "cd" * 32):
            (tmp_path / "snapshots" / name).mkdir()
        (tmp_path / "snapshots" / ("cd" * 32) / "file").touch()
        for found in await storage.audit():
            await storage.repair(found)

    run(work)
    left = os.listdir(tmp_path / "snapshots")
    assert "ab" * 32 not in left and "cd" * 32 in left and len(left) == 2
