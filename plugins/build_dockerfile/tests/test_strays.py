"""Leftovers of killed builds are removed, and other files are kept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orlop_build_dockerfile.cache import file, strays
from orlop_build_dockerfile.cache.file import CacheFile, StoredRecord


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The directory of a builder with two records, one of a context and one of a snapshot."""
    root = tmp_path / "build"
    for name in ("contexts/kept/tree", "cachemounts"):
        (root / name).mkdir(parents=True)
    (root / "worker-id").write_text("x")
    cache = CacheFile(str(root / "cache.db"))
    own = StoredRecord(
        id="a", key="1", kind="source.local", description="", created=0, used=0, path=str(root / "contexts/kept")
    )
    made = StoredRecord(
        id="b", key="2", kind="regular", description="", created=0, used=0, snapshots=((0, "build-1", ""), (1, "", ""))
    )
    cache.write([file.put(own), file.put(made)])
    cache.close()
    return root


def test_directories_without_a_record_are_removed(root: Path, tmp_path: Path) -> None:
    runtime = tmp_path / "run"
    root.joinpath("unpack-file").write_text("an upload")
    left = ("contexts/left/tree/file", "cachemounts/left/tree/file", "view-abc/x", "unpack-0123/tree/file", f"{'0a' * 16}/x")
    for path in [*(root / name for name in left), runtime / "steps/secret/file"]:
        path.parent.mkdir(parents=True)
        path.write_text("x")
    found = strays.sweep(str(root), str(runtime))
    assert found.is_known and found.snapshots == {"build-1"}
    assert os.listdir(root / "contexts") == ["kept"]
    assert os.listdir(root / "cachemounts") == []
    assert {name for name in os.listdir(root) if not name.startswith("cache.db")} == {"contexts", "cachemounts", "worker-id"}
    assert os.listdir(runtime / "steps") == []


def test_files_that_a_damaged_cache_may_refer_to_are_kept(root: Path, tmp_path: Path) -> None:
    (root / "cache.db").write_bytes(b"no database" * 100)
    (root / "cachemounts/some").mkdir()
    found = strays.sweep(str(root), str(tmp_path))
    assert not found.is_known
    assert os.listdir(root / "contexts") == ["kept"] and os.listdir(root / "cachemounts") == ["some"]


def test_missing_cache_file_refers_to_no_snapshot(tmp_path: Path) -> None:
    assert strays.sweep(str(tmp_path / "none"), str(tmp_path)).snapshots == frozenset()
