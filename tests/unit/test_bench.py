"""The command line of the benchmarks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["--check", "exce"], "no such measure: exce"),
        (["--check", "--only-orlop"], "--check cannot be used with --only-orlop"),
    ],
)
def test_benchmark_check_without_recorded_results_is_refused(argv: list[str], complaint: str) -> None:
    done = subprocess.run([sys.executable, "-m", "bench", *argv], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 2 and complaint in done.stderr
