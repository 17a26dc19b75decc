from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from orlop_mydriver import MyDriver

from orlop_sdk import Runtime, RuntimeContext
from orlop_sdk.testing import RuntimeSuite

PROGRAM = "runc"  # the program that the driver runs


@pytest.mark.root
class TestMyDriver(RuntimeSuite):
    @pytest.fixture
    def driver(self, tmp_path: Path) -> Runtime:
        path = shutil.which(PROGRAM)
        assert path, f"{PROGRAM} is not installed"
        (tmp_path / "state").mkdir()
        return MyDriver(RuntimeContext("mydriver", path, str(tmp_path / "state")))
