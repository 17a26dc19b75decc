"""Paths of a container's files, and copy-up into volumes: the functions that mount nothing and need no root."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from orlop_monitor.unpack.binds import _nested, _Source
from orlop_monitor.unpack.copyup import copy_up
from orlop_monitor.unpack.errors import UnpackError
from orlop_monitor.unpack.request import Bind
from orlop_monitor.unpack.view import NoSuchPath, ResolvedPath, describe, directory
from orlop_sdk.testing.durability import no_descriptors_left


@pytest.fixture
def base(tmp_path: Path) -> str:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").write_text("content")
    for name, link in {"l": "d", "to-file": "d/f", "nowhere": "gone"}.items():
        (tmp_path / name).symlink_to(link)
    return str(tmp_path.resolve())


def found(path: str) -> tuple[str, int, str]:
    """The attributes of the resolved path: its name (`ResolvedPath.shown`), the type of the file, and the link's target."""
    resolved = ResolvedPath(path)
    try:
        return resolved.shown, stat.S_IFMT(resolved.info.st_mode), describe(resolved).link
    finally:
        os.close(resolved.parent)


def test_paths_in_a_container_are_resolved_like_in_docker(base: str) -> None:
    """The last component of a path is followed only if the path ends with "/" or "/."."""
    assert found(f"{base}/d/f") == ("f", stat.S_IFREG, "")
    assert found(f"{base}/d/../l/f") == ("f", stat.S_IFREG, "")
    assert found(f"{base}/l") == ("l", stat.S_IFLNK, f"{base}/d")
    assert found(f"{base}/nowhere") == ("nowhere", stat.S_IFLNK, f"{base}/gone")
    assert found(f"{base}/l/") == ("l", stat.S_IFDIR, "")
    assert found(f"{base}/l/.") == (".", stat.S_IFDIR, "")
    assert found("/") == found("") == found("//") == ("/", stat.S_IFDIR, "")


def test_missing_paths_and_files_used_as_directories_are_refused(base: str) -> None:
    for missing in ("gone", "gone/x", "nowhere/", "nowhere/x"):
        with pytest.raises(NoSuchPath, match=missing):
            ResolvedPath(f"{base}/{missing}")
    for file in ("d/f/x", "to-file/x", "d/f/", "to-file/", "d/f/."):
        with pytest.raises(UnpackError, match=f"{file}: not a directory"):
            ResolvedPath(f"{base}/{file}")


def test_target_directory_of_an_extraction_may_be_a_symlink(base: str) -> None:
    for path in ("d", "l"):
        fd = directory(f"{base}/{path}")
        assert os.listdir(fd) == ["f"]
        os.close(fd)
    with pytest.raises(NoSuchPath, match="nowhere"):
        directory(f"{base}/nowhere")
    for path in ("d/f", "to-file", "d/f/x"):
        with pytest.raises(UnpackError, match="extraction point is not a directory"):
            directory(f"{base}/{path}")


def copied(base: str, path: str, volume: Path) -> bool:
    root, target = os.open(base, os.O_RDONLY), os.open(volume, os.O_RDONLY)
    try:
        with no_descriptors_left():
            return copy_up(root, path, target)
    finally:
        os.close(root)
        os.close(target)


def test_only_an_empty_volume_is_filled_with_the_images_files(base: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    volume = tmp_path_factory.mktemp("volume")
    os.chmod(f"{base}/d", 0o710)
    os.symlink(base, f"{base}/absolute")  # inside the root, this symlink is dangling
    assert not copied(base, "/gone", volume) and not copied(base, "/absolute", volume)
    with pytest.raises(FileExistsError, match="cannot mount volume over existing file"):
        copied(base, "/d/f", volume)
    assert os.listdir(volume) == []
    assert copied(base, "/l", volume)
    assert (volume / "f").read_text() == "content" and stat.S_IMODE(volume.stat().st_mode) == 0o710
    (volume / "f").write_text("mine")
    assert not copied(base, "/d", volume) and (volume / "f").read_text() == "mine"


def test_bind_mounts_are_nested_by_destination() -> None:
    places = ["/a", "/ab", "/a/b", "/x/y", "/a/b/c/d"]
    top = _nested([_Source(Bind("/source", place), -1, detached=False) for place in places])

    def shape(sources: list[_Source]) -> dict[str, object]:
        return {source.bind.destination: shape(source.children) for source in sources}

    assert shape(top) == {"/a": {"/a/b": {"/a/b/c/d": {}}}, "/ab": {}, "/x/y": {}}
