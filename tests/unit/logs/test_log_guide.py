"""docs/drivers.md: builds the page's example log driver and runs the conformance suite on it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from orlop_sdk import LogDriver
from orlop_sdk import discovery as plugins

GUIDE = Path(__file__).parents[3] / "docs" / "drivers.md"
_FILE = re.compile(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", re.DOTALL)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in _FILE.findall(GUIDE.read_text()):
        (tmp_path / name).write_text(text)
    return tmp_path


def test_example_log_driver_of_the_guide_passes_the_conformance_suite(project: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_tsv.py"],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^\d\d passed", done.stdout, re.MULTILINE)


def test_entry_point_of_the_guides_example_log_driver_is_found(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(project))
    written = tomllib.loads((project / "pyproject.toml").read_text())
    [(name, value)] = written["project"]["entry-points"]["orlop.log"].items()
    monkeypatch.setattr(plugins.entrypoints, "every", lambda: [plugins.EntryPoint(name, value, "orlop.log")])
    monkeypatch.setattr(plugins, "_scanned", (0.0, {}))
    driver = plugins.find("log", "tsv").make()
    assert isinstance(driver, LogDriver)
