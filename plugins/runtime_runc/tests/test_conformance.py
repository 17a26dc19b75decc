"""Conformance suite for runtime drivers, with runc and crun."""

from __future__ import annotations

import ctypes.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orlop_runtime_runc import Runc
from orlop_sdk import Runtime, RuntimeContext
from orlop_sdk.testing import RuntimeSuite


def _driver(name: str, tmp_path: Path) -> Runtime:
    path = shutil.which(name)
    assert path, f"{name} is not installed"
    (tmp_path / "state").mkdir()
    return Runc(RuntimeContext(name, path, str(tmp_path / "state")))


@pytest.mark.root
class TestRunc(RuntimeSuite):
    @pytest.fixture
    def driver(self, tmp_path: Path) -> Runtime:
        return _driver("runc", tmp_path)


@pytest.mark.root
class TestCrun(RuntimeSuite):
    @pytest.fixture
    def driver(self, tmp_path: Path) -> Runtime:
        return _driver("crun", tmp_path)

    @pytest.mark.skipif(not ctypes.util.find_library("criu"), reason="crun needs libcriu for checkpoints")
    def test_checkpointed_task_is_restored(self, driver: Runtime, bundle: Callable[..., Any], tmp_path: Path) -> None:
        super().test_checkpointed_task_is_restored(driver, bundle, tmp_path)
