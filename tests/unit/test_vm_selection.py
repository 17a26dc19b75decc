"""The arguments of `./dev vm` that select tests of the integration suite."""

from __future__ import annotations

import re
from pathlib import Path

from tests.vm.__main__ import CHOSEN

ROOT = Path(__file__).parents[2]


def test_every_word_in_chosen_selects_a_test_of_its_file() -> None:
    """Each word in `CHOSEN` occurs in the name of a test."""
    for name, words in CHOSEN.items():
        found = re.findall(r"^def (test_\w+)\(", (ROOT / f"tests/integration/test_{name}.py").read_text(), re.MULTILINE)
        for word in words.split():
            assert any(word in each for each in found), f"no test of test_{name}.py has {word} in its name"
