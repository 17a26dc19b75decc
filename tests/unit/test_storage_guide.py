"""docs/drivers.md: runs the conformance suite on the page's example storage driver."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from orlop_sdk import InvalidParameter, discovery

GUIDE = Path(__file__).parents[2] / "docs" / "drivers.md"
FILES = dict(re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", GUIDE.read_text(), re.DOTALL))
DRIVER = "orlop_storage_copies"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in (f"{DRIVER}.py", "test_copies.py"):
        (tmp_path / name).write_text(FILES[name])
    return tmp_path


@pytest.mark.timeout(180)
def test_example_storage_driver_of_the_guide_is_short_and_passes_the_conformance_suite(project: Path) -> None:
    assert FILES[f"{DRIVER}.py"].count("\n") <= 60
    # Uses a tmpfs, because each of some hundred commits waits for all data that is being written to the file system (syncfs)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as top:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={top}/t", "test_copies.py"],
            cwd=project,
            env={**os.environ, "PYTHONPATH": str(project)},
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^\d\d passed", done.stdout, re.MULTILINE)


def test_hook_of_the_guides_example_registers_the_storage_driver(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(project))
    entry = discovery.EntryPoint("copies", DRIVER, "orlop.storage")
    monkeypatch.setattr(discovery.entrypoints, "every", lambda: [entry])
    monkeypatch.setattr(discovery, "_scanned", (0.0, {}))
    found = discovery.find("storage", "copies")
    assert found.check_options
    found.check_options([("reflink", "always")])
    with pytest.raises(InvalidParameter, match=r"copies\.size=1G"):
        found.check_options([("size", "1G")])
