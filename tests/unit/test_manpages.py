"""packaging/manpages.py writes a page for each command, which groff formats without warnings."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from orlop_cli._table import GROUPS, TABLE

TOP = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("man")
    subprocess.run([sys.executable, str(TOP / "packaging/manpages.py"), str(made)], check=True, timeout=60)
    return made


def test_each_command_has_a_manual_page(pages: Path) -> None:
    commands = {"orlop", *(f"orlop-{name}" for name in TABLE)}
    commands |= {f"orlop-{group}-{name}" for group, (table, _) in GROUPS.items() for name in table}
    written = {path.name.removesuffix(".1.gz") for path in (pages / "man1").iterdir()}
    assert commands <= written
    assert (pages / "man8/orlopd.8.gz").exists()


def test_manual_page_shows_flags_and_aliases_and_examples(pages: Path) -> None:
    text = gzip.decompress((pages / "man1/orlop-ps.1.gz").read_bytes()).decode()
    assert ".B \\-a, \\-\\-all\n" in text and "orlop container ls, orlop container list" in text
    assert ".SH EXAMPLES\n.nf\norlop ps" in text


@pytest.mark.skipif(not shutil.which("groff"), reason="groff is not installed")
def test_groff_formats_the_manual_pages_without_warnings(pages: Path) -> None:
    texts = [gzip.decompress(path.read_bytes()) for path in sorted(pages.rglob("*.gz"))]
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-z"], input=b"".join(texts), capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr.decode()) == (0, "")
