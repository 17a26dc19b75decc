"""Shared code of drivers: walking deep trees, copying, deleting in the background, and the snapshot index."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from orlop_sdk import InvalidParameter
from orlop_sdk.files import Trash, copy_tree, delete_tree, docker_name, filesystem_type, tree_usage, walk
from orlop_sdk.linux import relative_layers
from orlop_sdk.snapshots import SnapshotIndex, check_key

DEEP = 2500  # exceeds Python's recursion limit, and PATH_MAX as a path


def deep_tree(root: Path) -> None:
    fd = os.open(root, os.O_RDONLY)
    for _ in range(DEEP):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)


def opened(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY)


def test_deep_trees_are_walked_and_deleted(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    deep_tree(tmp_path / "root")
    assert tree_usage(str(tmp_path / "root")).inodes == DEEP + 1
    delete_tree(str(tmp_path / "root"))
    assert os.listdir(tmp_path) == []


def test_walk_stays_inside_and_goes_on_when_things_move(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in ("a/x/y", "b", "c"):
        (root / name).mkdir(parents=True)
    (root / "link").symlink_to(tmp_path, target_is_directory=True)
    fd = opened(root)
    seen = []
    try:
        for path, _, entries in walk(fd):
            seen.append(path)
            if path == "a/x/y":
                (root / "a/x").rename(tmp_path / "elsewhere")
            entries.sort()
    finally:
        os.close(fd)
    assert set(seen) == {"", "a", "a/x", "a/x/y", "b", "c"}
    assert len(seen) == len(set(seen))


def test_usage_counts_hard_links_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("12345")
    os.link(tmp_path / "a", tmp_path / "b")
    (tmp_path / "d").mkdir()
    assert (tree_usage(str(tmp_path)).size, tree_usage(str(tmp_path)).inodes) == (5, 2)


def test_copies_are_equal(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "d/e").mkdir(parents=True)
    target.mkdir()
    (source / "d/file").write_bytes(b"content" * 1000)
    os.chmod(source / "d/file", 0o751)
    os.setxattr(source / "d/file", "user.note", b"kept")
    os.link(source / "d/file", source / "d/e/same")
    (source / "link").symlink_to("/nowhere")
    os.mkfifo(source / "fifo", 0o640)
    with open(source / "hole", "wb") as file:
        file.truncate(8 << 20)
        file.seek(4 << 20)
        file.write(b"middle")
    os.utime(source / "d", ns=(5, 1_234_567_890_123_456_789))
    os.chmod(source, 0o710)
    one, two = opened(source), opened(target)
    try:
        copy_tree(one, two)
    finally:
        os.close(one)
        os.close(two)
    for path in [source, *source.rglob("*")]:
        copy = target / path.relative_to(source)
        old, new = os.lstat(path), os.lstat(copy)
        assert (old.st_mode, old.st_mtime_ns, old.st_uid, old.st_nlink) == (
            new.st_mode,
            new.st_mtime_ns,
            new.st_uid,
            new.st_nlink,
        )
        if stat.S_ISREG(old.st_mode):
            assert path.read_bytes() == copy.read_bytes()
    assert os.stat(target / "d/file").st_ino == os.stat(target / "d/e/same").st_ino
    assert os.getxattr(target / "d/file", "user.note") == b"kept"
    assert os.stat(target / "hole").st_blocks * 512 < 1 << 20
    assert os.readlink(target / "link") == "/nowhere"


def test_trash_empties_itself_and_what_a_crash_left(tmp_path: Path) -> None:
    (tmp_path / "trash/left/over").mkdir(parents=True)
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/sub/file").touch()
    trash = Trash(str(tmp_path / "trash"))
    trash.take(str(tmp_path / "tree"))
    assert not (tmp_path / "tree").exists(), "it is out of the way at once"
    trash.take(str(tmp_path / "tree"))
    assert trash.wait(10)
    assert os.listdir(tmp_path / "trash") == []


def test_the_index_of_snapshots(tmp_path: Path) -> None:
    index = SnapshotIndex(str(tmp_path))
    assert index.load() == {}
    index.add("pull-1", "id1", None)
    index.commit("pull-1", "sha256:aa")
    index.add("c1", "id2", "id1")
    found = SnapshotIndex(str(tmp_path)).load()
    assert {key: (each.id, each.parent, each.committed) for key, each in found.items()} == {
        "sha256:aa": ("id1", None, True),
        "c1": ("id2", "id1", False),
    }
    for _ in range(2):
        index.drop("c1", committed=False)
    assert list(index.load()) == ["sha256:aa"]
    for bad in ("", ".", "..", "a/b", "a b", "x" * 129):
        with pytest.raises(InvalidParameter):
            check_key(bad)


def test_an_index_that_was_damaged(tmp_path: Path) -> None:
    """Invalid index entries are quarantined, and their keys can be used again."""
    index = SnapshotIndex(str(tmp_path))
    index.load()
    index.add("c1", "id1", None)
    (tmp_path / "active" / "file").write_text("x")
    (tmp_path / "active" / "directory").mkdir()
    (tmp_path / "active" / "outside").symlink_to("../../etc")
    (tmp_path / "committed" / "sha256:aa").symlink_to("id2:../x")
    assert len(index.compare({"id1"}, lambda ident: True)) == 4
    assert list(index.load()) == ["c1"]
    assert len(os.listdir(tmp_path / "damaged")) == 4
    index.add("file", "id3", "id9")
    found = index.compare({"id1", "id4", "id5"}, lambda ident: ident == "id5")
    assert [(each.kind, each.object, each.repair) for each in found if each.kind != "damaged"] == [
        ("missing", "snapshot file", ""),
        ("stray", "directory id4", ""),
        ("stray", "directory id5", "remove it"),
    ]
    assert sum(each.kind == "damaged" for each in found) == 4


def test_the_file_system_has_a_name(tmp_path: Path) -> None:
    assert filesystem_type(str(tmp_path)) != "unknown"
    assert filesystem_type("/proc") == "proc"


@pytest.mark.parametrize(
    ("kernel", "docker"),
    [
        ("ext4", "extfs"),
        ("overlay", "overlayfs"),
        ("nfs4", "nfs"),
        ("fuse.sshfs", "fuse"),
        ("fuseblk", "fuse"),
        ("zfs", "zfs"),
    ],
)
def test_docker_has_names_of_its_own_for_file_systems(kernel: str, docker: str) -> None:
    assert docker_name(kernel) == docker


def test_many_layers_are_named_from_where_they_are() -> None:
    options = [
        "index=off",
        "lowerdir=/var/lib/o/l/A:/var/lib/o/l/B",
        "upperdir=/var/lib/o/x/diff",
        "workdir=/var/lib/o/x/work",
    ]
    assert relative_layers(options) == ("/var/lib/o", ["index=off", "lowerdir=l/A:l/B", "upperdir=x/diff", "workdir=x/work"])
