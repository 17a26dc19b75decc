"""The tests that docs/threat-model.md names as proofs exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_test_that_the_threat_model_names_exists() -> None:
    text = (ROOT / "docs/threat-model.md").read_text()
    tests = [
        path
        for pattern in ("tests", "*/tests", "plugins/*/tests")
        for top in ROOT.glob(pattern)
        for path in top.rglob("test_*.py")
    ]
    file, count = "", 0
    for name, function in re.findall(r"`(?:[\w/]*tests/(?:[a-z]+/)?)?(test_\w+[.]py)?(?:::(test_\w+))?`", text):
        file = name or file
        found = [path for path in tests if path.name == file]
        assert found, f"no file {file}"
        if function:
            assert any(f"def {function}(" in path.read_text() for path in found), f"no {function} in {file}"
            count += 1
    assert count > 30
