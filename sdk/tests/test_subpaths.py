"""Subpaths of volumes: valid names, and symlinks that lead out of the volume."""

import errno
import os

import pytest

from orlop_sdk.subpaths import is_local, open_subpath


@pytest.mark.parametrize(
    ("subpath", "local"),
    [
        ("", True),
        ("a", True),
        ("a/../b", True),
        ("./a", True),
        ("a/b/../../c/.", True),
        ("..", False),
        ("a/../..", False),
        ("../a", False),
        ("/a", False),
        ("..a", True),
    ],
)
def test_paths_that_leave_the_volume_are_not_local(subpath, local):
    assert is_local(subpath) is local


@pytest.fixture
def volume(tmp_path):
    base = tmp_path / "data"
    (base / "sub").mkdir(parents=True)
    (base / "file").write_text("x")
    (base / "in").symlink_to("sub")
    (base / "around").symlink_to("sub/../in")
    (base / "up").symlink_to("../..")
    (base / "absolute").symlink_to("/")
    (base / "own").symlink_to(base / "sub")
    return base


@pytest.mark.parametrize("subpath", ["sub", "in", "around", "sub/../in", "sub/."])
def test_links_inside_the_volume_are_followed(volume, subpath):
    fd = open_subpath(str(volume), subpath)
    try:
        assert os.path.samestat(os.fstat(fd), os.stat(volume / "sub"))
    finally:
        os.close(fd)


@pytest.mark.parametrize("subpath", ["up", "absolute", "absolute/etc", "own"])
def test_links_out_of_the_volume_are_refused_with_dockerds_message(volume, subpath):
    with pytest.raises(OSError) as caught:
        open_subpath(str(volume), subpath)
    assert caught.value.errno == errno.EXDEV
    words = f"path concatenation escapes the base directory, base: {volume}, subpath: {subpath}"
    assert caught.value.strerror == words


def test_missing_paths_are_reported_with_dockerds_message(volume):
    with pytest.raises(FileNotFoundError) as caught:
        open_subpath(str(volume), "no")
    assert caught.value.strerror == f"cannot access path {volume}/no: lstat {volume}/no: no such file or directory"
    with pytest.raises(NotADirectoryError) as wrong:
        open_subpath(str(volume), "file/x")
    assert wrong.value.strerror == f'error while resolving symlinks in combined path "{volume}/file/x": not a directory'
