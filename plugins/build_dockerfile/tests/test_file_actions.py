"""Copying and changing files in untrusted root directories: no path leads out of these directories.

No symlink in these tests may lead out of `tmp_path`, so that no file of the host is changed if a tested check is missing."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orlop_build_dockerfile.contracts import BuildFailed
from orlop_build_dockerfile.ops import actions, paths
from orlop_build_dockerfile.ops.archives import is_archive
from orlop_build_dockerfile.ops.copying import Copier, Options, remove_tree
from orlop_build_dockerfile.pb import ops_pb2


class Place:
    """A source directory, a target directory, and next to them a secret file, which no test may reach."""

    def __init__(self, base: Path) -> None:
        self.source, self.target, self.outside = base / "source", base / "target", base / "outside"
        for path in (self.source, self.target, self.outside):
            path.mkdir()
        (self.outside / "secret").write_text("secret")

    def on(self, path: Path, work: Callable[[int], Any]) -> Any:
        with paths.opened(os.open(path, os.O_RDONLY | os.O_DIRECTORY)) as fd:
            return work(fd)

    def copy(self, src: str, dest: str, **options: Any) -> None:
        merged = {"mode": -1, "followSymlink": True, "dirCopyContents": True, "createDestPath": True, **options}
        action = ops_pb2.FileActionCopy(src=src, dest=dest, **merged)
        self.on(
            self.target,
            lambda target: self.on(self.source, lambda source: actions.copy(target, source, action, None, never)),
        )

    def untouched(self) -> bool:
        return [(each.name, each.read_text()) for each in self.outside.iterdir()] == [("secret", "secret")]


def never(archive: int, directory: int) -> None:
    raise AssertionError("nothing is to be unpacked")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


# A link that is followed out of its root leads to a directory of this test. These tests remove files as root, so a link to
# "/" would destroy the machine if a guard were missing.
LINKS = ["../outside", "{outside}", "x/../../outside", "l"]


@pytest.mark.parametrize("link", LINKS)
def test_symlinks_in_the_target_do_not_lead_outside(place: Place, link: str) -> None:
    link = link.format(outside=place.outside)
    (place.target / "l").symlink_to(link)
    (place.source / "f").write_text("new")
    actions_on_target: list[Callable[[int], None]] = [
        lambda fd: actions.mkdir(fd, ops_pb2.FileActionMkDir(path="/l/made/deep", makeParents=True, mode=0o755), None),
        lambda fd: actions.mkfile(fd, ops_pb2.FileActionMkFile(path="/l/secret", data=b"x", mode=0o644), None),
        lambda fd: actions.symlink(fd, ops_pb2.FileActionSymlink(oldpath="x", newpath="/l/new"), None),
        lambda fd: actions.rm(fd, ops_pb2.FileActionRm(path="/l/secret", allowNotFound=True)),
        lambda fd: actions.rm(fd, ops_pb2.FileActionRm(path="/l/*", allowWildcard=True)),
    ]
    for work in actions_on_target:
        try:
            place.on(place.target, work)
        except OSError:
            pass  # a link that leads to itself
    for dest in ("/l/", "/l/f", "/l"):
        try:
            place.copy("/f", dest)
        except (OSError, BuildFailed):
            pass
    assert place.untouched()


@pytest.mark.parametrize("link", LINKS)
def test_symlinks_in_the_source_do_not_lead_outside(place: Place, link: str) -> None:
    (place.source / "l").symlink_to(link.format(outside=place.outside))
    for src in ("/l", "/l/secret", "/l/*", "/*"):
        try:
            place.copy(src, "/got/", allowWildcard=True)
        except (OSError, BuildFailed):
            pass
    found = [each for each in place.target.rglob("*") if each.is_file() and not each.is_symlink()]
    assert not [each for each in found if each.read_text() == "secret"]


def test_named_pipes_in_place_of_files_do_not_block_file_actions(place: Place) -> None:
    os.mkfifo(place.target / "pipe")
    os.mkfifo(place.source / "pipe")
    (place.source / "f").write_text("x")
    place.copy("/f", "/pipe")
    assert (place.target / "pipe").read_text() == "x"
    place.copy("/pipe", "/p")
    assert stat.S_ISFIFO((place.target / "p").stat().st_mode)
    os.mkfifo(place.target / "q")
    with pytest.raises(OSError, match="No such device"):
        place.on(place.target, lambda fd: actions.mkfile(fd, ops_pb2.FileActionMkFile(path="/q", data=b"x"), None))


def test_remove_action_cannot_remove_the_root_directory(place: Place) -> None:
    (place.target / "f").write_text("x")
    for path in ("/", "", ".", "/a/.."):
        with pytest.raises(BuildFailed, match="invalid empty path"):
            place.on(place.target, lambda fd, path=path: actions.rm(fd, ops_pb2.FileActionRm(path=path)))
    assert (place.target / "f").exists()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../outside"])
def test_remove_tree_refuses_names_that_are_paths(place: Place, name: str) -> None:
    with pytest.raises(ValueError, match="not the name of an entry"):
        place.on(place.target, lambda fd: remove_tree(fd, name))
    assert place.untouched()


def test_directory_trees_that_are_too_deep_are_refused(place: Place) -> None:
    fd = os.open(place.source, os.O_RDONLY)
    for _ in range(500):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    with pytest.raises(BuildFailed, match="nested deeper"):
        place.copy("/", "/x")
    assert len(os.listdir("/proc/self/fd")) < 100


def test_copy_keeps_hard_links_and_sparse_files_and_extended_attributes(place: Place) -> None:
    (place.source / "d").mkdir(mode=0o750)
    with open(place.source / "d" / "sparse", "wb") as file:
        file.truncate(8 << 20)
        file.seek(4 << 20)
        file.write(b"x" * 4096)
    os.link(place.source / "d" / "sparse", place.source / "d" / "again")
    (place.source / "d" / "set").write_text("x")
    (place.source / "d" / "set").chmod(0o4711)
    os.setxattr(place.source / "d" / "set", "user.note", b"kept")
    os.utime(place.source / "d" / "set", ns=(10**18, 10**18 + 5))
    place.copy("/", "/x")
    made = place.target / "x" / "d"
    assert (made / "sparse").stat().st_ino == (made / "again").stat().st_ino
    assert (made / "sparse").stat().st_blocks * 512 < 1 << 20 and (made / "sparse").stat().st_size == 8 << 20
    found = (made / "set").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_mtime_ns) == (0o4711, 10**18 + 5)
    assert os.getxattr(made / "set", "user.note") == b"kept" and stat.S_IMODE(made.stat().st_mode) == 0o750


def test_copy_creates_only_paths_that_match_an_include_pattern(place: Place) -> None:
    for name in ("a/b/keep.txt", "a/c/drop.md", "e/f.md", "top.txt"):
        (place.source / name).parent.mkdir(parents=True, exist_ok=True)
        (place.source / name).write_text(name)
    options = Options(contents=True, include=("**/*.txt",), exclude=("top.*",))
    place.on(place.target, lambda target: place.on(place.source, lambda fd: Copier(fd, target, options).copy("/", "/x")))
    assert sorted(str(each.relative_to(place.target)) for each in place.target.rglob("*")) == [
        "x",
        "x/a",
        "x/a/b",
        "x/a/b/keep.txt",
    ]


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 1024, b"x" * 600, b"\x1f\x8b\x08garbage", b"BZh9garbage", b"\xfd7zXZ\0bad", b"\x28\xb5\x2f\xfdbad"]
)
def test_empty_files_and_text_and_damaged_compressed_data_are_not_archives(tmp_path: Path, data: bytes) -> None:
    """ADD copies such files, and does not unpack them."""
    (tmp_path / "f").write_bytes(data)
    with paths.opened(os.open(tmp_path / "f", os.O_RDONLY)) as fd:
        assert not is_archive(fd)


@pytest.mark.parametrize("mode", ["w:", "w:gz", "w:bz2", "w:xz"])
def test_compressed_and_uncompressed_tars_are_recognized_as_archives(tmp_path: Path, mode: Any) -> None:
    import tarfile

    with tarfile.open(tmp_path / "f", mode) as made:
        made.add(__file__, "x")
    with paths.opened(os.open(tmp_path / "f", os.O_RDONLY)) as fd:
        assert is_archive(fd)
