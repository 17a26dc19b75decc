"""The units of systemd, by systemd's own parser."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

PACKAGING = Path(__file__).parents[2] / "packaging"


def complaints(directory: Path) -> str:
    """What `systemd-analyze verify` says: nothing when all is well. Its exit code is 0 even for unknown keys."""
    units = [str(directory / name) for name in ("orlop.service", "orlop.socket")]
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_understands_every_line(tmp_path: Path) -> None:
    for unit in PACKAGING.glob("orlop.*"):
        text = unit.read_text().replace("/usr/bin/orlopd", "/bin/true")  # it looks whether the program is there
        (tmp_path / unit.name).write_text(text)
    assert complaints(tmp_path) == ""
    with (tmp_path / "orlop.service").open("a") as file:
        file.write("[Service]\nNoSuchKey=1\n")
    assert "NoSuchKey" in complaints(tmp_path)


def test_the_installer_finds_the_programs_path_in_the_unit() -> None:
    text = (PACKAGING / "orlop.service").read_text()
    assert text.count("/usr/bin/orlopd") == 1
    assert "\nExecStart=/usr/bin/orlopd -H fd://\n" in text
