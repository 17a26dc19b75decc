"""Mount points that the monitor creates before the start and removes after the exit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orlop_monitor.protocol import MountPoint
from orlop_monitor.stubs import Stubs

OLD = (1_000_000_000_000_000_000, 1_000_000_000_123_456_789)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    top = tmp_path / "root"
    (top / "etc").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    for path in (top / "etc", top):
        os.utime(path, ns=OLD)
    return top


def tree(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def times(path: Path) -> tuple[int, int]:
    info = path.stat()
    return info.st_atime_ns, info.st_mtime_ns


def test_missing_mount_points_are_made_and_later_removed(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    points = ("/proc", "/run/secrets/deep/", "/etc")
    stubs = Stubs(str(root), (*map(MountPoint, points), MountPoint("/etc/hosts", str(file))))
    assert tree(root) == {"etc", "etc/hosts", "proc", "run", "run/secrets", "run/secrets/deep"}
    assert (root / "etc/hosts").is_file() and (root / "run/secrets/deep").is_dir()
    assert times(root / "etc")[1] == times(root)[1] == OLD[1], "the directories keep their times"
    stubs.remove()
    assert tree(root) == {"etc"}
    assert times(root / "etc")[1] == times(root)[1] == OLD[1]


def test_mount_points_filled_by_the_container_are_kept(root: Path) -> None:
    stubs = Stubs(
        str(root), (MountPoint("/a/b"), MountPoint("/f", "/dev/null"), MountPoint("/gone"), MountPoint("/changed"))
    )
    (root / "a/b/kept").write_text("")
    (root / "f").write_text("content")
    (root / "gone").rmdir()
    (root / "changed").rmdir()
    (root / "changed").symlink_to("f")
    before = times(root)[1]
    stubs.remove()
    assert tree(root) == {"etc", "a", "a/b", "a/b/kept", "f", "changed"}
    assert times(root)[1] == before


def test_mount_points_are_made_only_inside_the_root(root: Path, tmp_path: Path) -> None:
    (root / "out").symlink_to(str(tmp_path / "outside"))
    (root / "up").symlink_to("../../outside")
    (root / "etc/resolv.conf").symlink_to("../run/systemd/resolv.conf")
    (root / "loop").symlink_to("loop")
    points = (
        MountPoint("/out/x"),
        MountPoint("/up/y"),
        MountPoint("/../../outside/z"),
        MountPoint("/etc/resolv.conf", "/dev/null"),
        MountPoint("/loop/x"),
    )
    try:
        stubs = Stubs(str(root), points)
    except OSError as error:  # a symlink loop; the runtime would fail, too
        assert error.filename == "/loop/x"
        assert not (root / "run").exists(), "the others have been removed"
        stubs = Stubs(str(root), points[:-1])
    assert not os.listdir(tmp_path / "outside")
    assert (root / "run/systemd/resolv.conf").is_file(), "what the link leads to, as runtimes make it"
    stubs.remove()
    assert not os.listdir(tmp_path / "outside")
    assert not (root / "run").exists()


def test_error_contains_the_path_of_a_mount_point_below_a_file(root: Path) -> None:
    (root / "file").write_text("")
    with pytest.raises(NotADirectoryError) as info:
        Stubs(str(root), (MountPoint("/file/below"),))
    assert info.value.filename == "/file/below"
