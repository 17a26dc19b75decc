"""The index of snapshots, and the flag by which drivers spread directories over an ext4 file system."""

import os
import struct
from fcntl import ioctl

import pytest

from orlop_sdk.files import filesystem_type, spread_directories
from orlop_sdk.snapshots import SnapshotIndex, SnapshotRecord


def test_parent_of_a_snapshot_can_be_set_before_its_commit(tmp_path):
    index = SnapshotIndex(str(tmp_path))
    index.load()
    index.add("below", "id-0", None, committed=True)
    index.add("pull", "id-1", None)
    index.set_parent("pull", "id-1", "id-0")
    assert index.load()["pull"] == SnapshotRecord("id-1", "id-0", False)
    index.commit("pull", "layer")
    assert index.load() == {"below": SnapshotRecord("id-0", None, True), "layer": SnapshotRecord("id-1", "id-0", True)}
    assert sorted(os.listdir(tmp_path)) == ["active", "committed"]


def test_leftovers_of_an_interrupted_change_are_removed(tmp_path):
    index = SnapshotIndex(str(tmp_path))
    index.load()
    index.add("pull", "id-1", None)
    os.symlink("id-1:id-0", tmp_path / "changed-0123")
    assert index.load() == {"pull": SnapshotRecord("id-1", None, False)}
    assert sorted(os.listdir(tmp_path)) == ["active", "committed"]


def test_directories_are_spread_over_block_groups(tmp_path):
    spread_directories(str(tmp_path))
    if filesystem_type(str(tmp_path)) != "extfs":
        pytest.skip("only ext4 has the flag")
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert struct.unpack("=i", ioctl(fd, 0x80086601, bytes(4)))[0] & 0x00020000  # FS_TOPDIR_FL of FS_IOC_GETFLAGS
    finally:
        os.close(fd)


def test_file_system_without_the_flag_for_spread_directories_is_ignored():
    spread_directories("/proc")
