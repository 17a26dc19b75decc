"""Shared code of drivers: walking deep trees, copying, deleting in the background, and the snapshot index."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orlop_sdk import InvalidParameter, files
from orlop_sdk.files import Trash, copy_tree, delete_tree, docker_name, filesystem_type, tree_usage, walk
from orlop_sdk.linux import relative_layers
from orlop_sdk.snapshots import SnapshotIndex, check_key
from orlop_sdk.testing.durability import no_descriptors_left, recorded

DEEP = 2500  # deeper than Python's recursion limit; such a path is longer than PATH_MAX


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    with no_descriptors_left():
        yield


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


def test_walk_stays_inside_the_root_when_directories_move(tmp_path: Path) -> None:
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


def test_hard_links_are_counted_once_in_the_disk_usage(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("12345")
    os.link(tmp_path / "a", tmp_path / "b")
    (tmp_path / "d").mkdir()
    assert (tree_usage(str(tmp_path)).size, tree_usage(str(tmp_path)).inodes) == (5, 2)


def test_copied_tree_equals_the_source_tree(tmp_path: Path) -> None:
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


def test_trash_deletes_trees_and_leftovers_of_a_crash(tmp_path: Path) -> None:
    (tmp_path / "trash/left/over").mkdir(parents=True)
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/sub/file").touch()
    trash = Trash(str(tmp_path / "trash"))
    trash.take(str(tmp_path / "tree"))
    assert not (tmp_path / "tree").exists(), "it is out of the way at once"
    trash.take(str(tmp_path / "tree"))
    assert trash.wait(10)
    assert os.listdir(tmp_path / "trash") == []


def test_snapshot_index_stores_snapshots_and_their_parents(tmp_path: Path) -> None:
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


def test_damaged_index_entries_are_quarantined(tmp_path: Path) -> None:
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


def test_file_system_type_is_detected(tmp_path: Path) -> None:
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
def test_file_systems_are_named_as_by_docker(kernel: str, docker: str) -> None:
    assert docker_name(kernel) == docker


def test_long_mount_options_use_relative_paths() -> None:
    options = [
        "index=off",
        "lowerdir=/var/lib/o/l/A:/var/lib/o/l/B",
        "upperdir=/var/lib/o/x/diff",
        "workdir=/var/lib/o/x/work",
    ]
    assert relative_layers(options) == ("/var/lib/o", ["index=off", "lowerdir=l/A:l/B", "upperdir=x/diff", "workdir=x/work"])


def copied(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    one, two = opened(source), opened(target)
    try:
        copy_tree(one, two)
    finally:
        os.close(one)
        os.close(two)


def test_walk_continues_at_the_root_after_a_directory_was_moved(tmp_path: Path) -> None:
    """The walk returns to a parent by "..". If ".." is not the parent any more, the walk continues at the root."""
    root = tmp_path / "root"
    for name in ("a/x", "a/y", "z"):
        (root / name).mkdir(parents=True)
    (tmp_path / "outside/secret").mkdir(parents=True)
    fd = opened(root)
    seen = []
    try:
        for path, _, _ in walk(fd):
            seen.append(path)
            if path.startswith("a/") and (root / path).exists():
                (root / path).rename(tmp_path / "outside/moved")
    finally:
        os.close(fd)
    assert "" in seen and "z" in seen
    assert not [path for path in seen if "secret" in path]


def test_walk_does_not_enter_other_file_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mounted/below").mkdir(parents=True)
    fd = opened(tmp_path)
    stat_of = os.stat

    def elsewhere(name: Any, **at: Any) -> os.stat_result:
        info = stat_of(name, **at)
        return os.stat_result([*info[:2], info.st_dev + 1, *info[3:]]) if name == "mounted" else info

    monkeypatch.setattr(files.os, "stat", elsewhere)
    try:
        assert [path for path, _, _ in walk(fd)] == [""]
    finally:
        os.close(fd)


def test_directory_with_subdirectories_is_counted_once_in_the_disk_usage(tmp_path: Path) -> None:
    for name in ("a/1", "a/2", "b/1"):
        (tmp_path / name).mkdir(parents=True)
    assert tree_usage(str(tmp_path)).inodes == 5


def test_copy_of_deeply_nested_directories_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_COPY_DEPTH", 3)
    (tmp_path / "source/1/2/3").mkdir(parents=True)
    copied(tmp_path / "source", tmp_path / "target")
    (tmp_path / "source/1/2/3/4").mkdir()
    with pytest.raises(OSError, match="nested deeper than 3") as caught:
        copied(tmp_path / "source", tmp_path / "again")
    assert caught.value.errno == errno.ENAMETOOLONG


def test_file_is_copied_if_its_hard_link_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/a").write_text("content")
    os.link(tmp_path / "source/a", tmp_path / "source/b")

    def refuse(number: int) -> None:
        def link(*names: str, **at: Any) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(files.os, "link", link)

    refuse(errno.EMLINK)
    copied(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target/a").read_text() == (tmp_path / "target/b").read_text() == "content"
    refuse(errno.EPERM)
    with pytest.raises(PermissionError):
        copied(tmp_path / "source", tmp_path / "again")


def test_copy_of_a_file_without_hard_links_creates_no_hard_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/a").write_text("1")
    monkeypatch.setattr(files.os, "link", None)
    info = os.stat(tmp_path / "source/a")
    linked = {(info.st_dev, info.st_ino): "other"}
    (tmp_path / "target").mkdir()
    one, two = opened(tmp_path / "source"), opened(tmp_path / "target")
    try:
        files._copy_entry(one, two, "a", info, linked, "")
    finally:
        os.close(one)
        os.close(two)
    assert (tmp_path / "target/a").read_text() == "1"


@pytest.mark.parametrize("in_kernel", [True, False])
def test_content_is_copied_with_and_without_copy_file_range(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_kernel: bool
) -> None:
    """The content is copied in pieces, by the kernel (copy_file_range) or by reading and writing."""

    def no_clone(*arguments: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, "no reflinks")

    def no_range(*arguments: Any) -> int:
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(files, "ioctl", no_clone)
    monkeypatch.setattr(files, "_STEP", 1000)
    if not in_kernel:
        monkeypatch.setattr(files.os, "copy_file_range", no_range)
    (tmp_path / "source").mkdir()
    (tmp_path / "source/big").write_bytes(os.urandom((3 << 20) + 17))
    with open(tmp_path / "source/hole", "wb") as file:
        file.write(b"start")
        file.truncate(1 << 20)
    (tmp_path / "source/empty").touch()
    copied(tmp_path / "source", tmp_path / "target")
    for name in ("big", "hole", "empty"):
        assert (tmp_path / "source" / name).read_bytes() == (tmp_path / "target" / name).read_bytes()


@pytest.mark.parametrize("call", ["ioctl", "copy_file_range", "listxattr", "setxattr", "lseek"])
def test_copy_fails_after_a_disk_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/file").write_bytes(b"x" * 5000)
    os.setxattr(tmp_path / "source/file", "user.note", b"kept")

    def fail(number: int) -> Any:
        def failing(*arguments: Any) -> int:
            raise OSError(number, os.strerror(number))

        return failing

    if call == "ioctl":
        monkeypatch.setattr(files, "ioctl", fail(errno.EIO))
    else:
        monkeypatch.setattr(files, "ioctl", fail(errno.ENOTTY))
        monkeypatch.setattr(files.os, call, fail(errno.EIO))
    with pytest.raises(OSError) as caught:
        copied(tmp_path / "source", tmp_path / "target")
    assert caught.value.errno == errno.EIO


def test_extended_attributes_are_skipped_where_unsupported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/file").write_text("x")
    os.setxattr(tmp_path / "source/file", "user.note", b"kept")

    def unsupported(*arguments: Any) -> Any:
        raise OSError(errno.ENOTSUP, "no attributes")

    monkeypatch.setattr(files.os, "setxattr", unsupported)
    copied(tmp_path / "source", tmp_path / "target")
    monkeypatch.setattr(files.os, "listxattr", unsupported)
    copied(tmp_path / "source", tmp_path / "again")
    assert (tmp_path / "again/file").read_text() == "x"


def test_copy_keeps_owners_and_modes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy calls chown only if a file's user or group differs from the process's, so users can copy their own files."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source/file").write_text("x")
    os.mkfifo(tmp_path / "source/fifo")
    os.chmod(tmp_path / "source/fifo", 0o666)
    (tmp_path / "source/link").symlink_to("x")
    owned: list[tuple[int, int]] = []
    monkeypatch.setattr(files.os, "chown", lambda path, uid, gid, **at: owned.append((uid, gid)))
    copied(tmp_path / "source", tmp_path / "target")
    assert owned == []
    assert stat.S_IMODE(os.lstat(tmp_path / "target/fifo").st_mode) == 0o666
    me = os.geteuid(), os.getegid()
    monkeypatch.setattr(files.os, "geteuid", lambda: me[0] + 1)
    copied(tmp_path / "source", tmp_path / "again")
    assert owned == [me] * 4  # file, fifo, link and the directory


def test_failed_deletion_is_reported_and_the_rest_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tree/a", "tree/b/c"):
        (tmp_path / name).mkdir(parents=True)
    rmdir = os.rmdir

    def busy(name: Any, **at: Any) -> None:
        if name == "a":
            raise OSError(errno.EBUSY, "busy")
        rmdir(name, **at)

    monkeypatch.setattr(files.os, "rmdir", busy)
    with pytest.raises(OSError, match="busy"):
        delete_tree(str(tmp_path / "tree"))


def test_index_entries_are_synced_in_crash_safe_order(tmp_path: Path) -> None:
    index = SnapshotIndex(str(tmp_path))
    index.load()
    index.add("pull-1", "id1", None)
    with recorded() as steps:
        index.commit("pull-1", "sha256:aa")
    renamed = str(tmp_path / "committed/sha256:aa")
    assert steps == [("rename", renamed), ("sync", str(tmp_path / "committed")), ("sync", str(tmp_path / "active"))]


def test_snapshot_index_knows_the_ids_of_its_snapshots(tmp_path: Path) -> None:
    index = SnapshotIndex(str(tmp_path))
    index.load()
    index.add("one", "id1", None)
    index.add("two", "id2", None)
    assert [index.knows(ident) for ident in ("id1", "id2", "id3")] == [True, True, False]


def test_layer_without_its_parent_is_reported_as_damaged(tmp_path: Path) -> None:
    index = SnapshotIndex(str(tmp_path))
    index.load()
    index.add("top", "id2", "id1")
    (found,) = index.compare({"id2"}, lambda ident: True)
    assert (found.kind, found.object, found.text) == ("damaged", "snapshot top", "a layer below it is missing")
