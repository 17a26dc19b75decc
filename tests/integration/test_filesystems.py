"""The daemon's data root on various file systems."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from orlop_sdk.files import filesystem_type

pytestmark = pytest.mark.root


@pytest.fixture
def btrfs(tmp_path: Path) -> Iterator[Path]:
    image, mounted = tmp_path / "image", tmp_path / "mounted"
    with image.open("wb") as file:
        os.truncate(file.fileno(), 256 << 20)
    mounted.mkdir()
    subprocess.run(["mkfs.btrfs", "-q", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(mounted)], check=True)
    yield mounted
    subprocess.run(["umount", str(mounted)], check=True)


@pytest.mark.skipif(not shutil.which("mkfs.btrfs"), reason="no btrfs-progs")
def test_file_system_type_of_a_btrfs_subvolume_is_recognized(btrfs: Path) -> None:
    subprocess.run(["btrfs", "subvolume", "create", str(btrfs / "inner")], check=True, capture_output=True)
    assert os.stat(btrfs / "inner").st_dev != os.stat(btrfs).st_dev
    assert filesystem_type(str(btrfs)) == filesystem_type(str(btrfs / "inner")) == "btrfs"
