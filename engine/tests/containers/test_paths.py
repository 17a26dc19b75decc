from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from orlop_engine.containers import paths


def test_run_directory_with_a_late_exit_record_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The zygote writes an exit record into the run directory while the daemon removes the directory."""
    directory = tmp_path / "run" / "a"
    directory.mkdir(parents=True)
    (tmp_path / "mnt").mkdir()
    (directory / "monitor.json").write_text("{}")
    remove, records = shutil.rmtree, [directory / "exit.json"]

    def interrupted(path: str, ignore_errors: bool) -> None:
        if records:
            (directory / "monitor.json").unlink()
            records.pop().write_text("{}")
        else:
            remove(path, ignore_errors)

    monkeypatch.setattr(shutil, "rmtree", interrupted)
    paths.ContainerPaths(str(tmp_path), str(tmp_path)).remove_run("a")
    assert not directory.exists()
