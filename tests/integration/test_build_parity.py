"""A real dockerd beside orlopd: the same Dockerfiles give the same images, and the same errors."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.integration.building.compared import CASES, context, outcome
from tests.integration.parity import Side

pytestmark = [pytest.mark.root, pytest.mark.skipif(not shutil.which("dockerd"), reason="no dockerd to compare with")]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", CASES)
def test_the_same_image(sides: tuple[Side, Side], tmp_path: Path, name: str) -> None:
    case = CASES[name]
    context(tmp_path / "context", case)
    theirs, ours = (outcome(side.path, tmp_path / "context", case, f"built-{name}") for side in sides)
    assert theirs == ours
    assert isinstance(theirs, tuple) == case.fails
