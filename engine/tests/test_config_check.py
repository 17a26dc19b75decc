"""Checks of the configuration against the host."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orlop_engine.config import Config
from orlop_engine.config_check import problems


def refused(data_root: Path) -> list[str]:
    return [each.text for each in problems(Config(data_root=str(data_root))) if each.keys == ("data-root",)]


def test_data_root_of_another_engine_is_refused_and_not_changed(tmp_path: Path) -> None:
    (tmp_path / "containers" / "precious").mkdir(parents=True)
    (found,) = refused(tmp_path)
    assert "contains data of another engine (containers) and no orlop.db" in found
    assert os.listdir(tmp_path) == ["containers"]


@pytest.mark.parametrize("names", [["containers", "orlop.db"], ["lost+found"], []], ids=["own", "empty disk", "empty"])
def test_data_root_of_orlop_and_empty_disk_are_accepted(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).mkdir()
    assert refused(tmp_path) == []
    assert refused(tmp_path / "missing") == []
