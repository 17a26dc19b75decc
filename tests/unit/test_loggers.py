"""The daemon's log level applies to the logger `orlop` and its children."""

from __future__ import annotations

import re
from pathlib import Path

TOP = Path(__file__).parents[2]


def test_every_logger_is_a_child_of_the_logger_orlop() -> None:
    """Other loggers would log only warnings and errors, whatever `log-level` says."""
    found = {}
    for pattern in ("*/orlop_*", "plugins/*/orlop_*"):
        for path in (file for package in TOP.glob(pattern) for file in package.rglob("*.py")):
            for name in re.findall(r"getLogger\(([^)]*)\)", path.read_text()):
                found[f"{path.relative_to(TOP)}: {name}"] = name
    assert len(found) > 30
    assert not [place for place, name in found.items() if name and not re.fullmatch(r'"orlop(\.[a-z]+)*"', name)]
