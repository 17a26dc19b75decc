"""The index of snapshots."""

import os

from orlop_sdk.snapshots import SnapshotIndex, SnapshotRecord


def test_a_parent_is_set_and_committed(tmp_path):
    index = SnapshotIndex(str(tmp_path))
    index.load()
    index.add("below", "id-0", None, committed=True)
    index.add("pull", "id-1", None)
    index.set_parent("pull", "id-1", "id-0")
    assert index.load()["pull"] == SnapshotRecord("id-1", "id-0", False)
    index.commit("pull", "layer")
    assert index.load() == {"below": SnapshotRecord("id-0", None, True), "layer": SnapshotRecord("id-1", "id-0", True)}
    assert sorted(os.listdir(tmp_path)) == ["active", "committed"]


def test_what_a_crash_left_of_a_change_is_removed(tmp_path):
    index = SnapshotIndex(str(tmp_path))
    index.load()
    index.add("pull", "id-1", None)
    os.symlink("id-1:id-0", tmp_path / "changed-0123")
    assert index.load() == {"pull": SnapshotRecord("id-1", None, False)}
    assert sorted(os.listdir(tmp_path)) == ["active", "committed"]
