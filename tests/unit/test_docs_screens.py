"""The pictures of the documentation show what the client prints."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

sys.path.append(str(Path(__file__).parents[2] / "docs"))
import screens


@pytest.mark.parametrize("name", ["top.svg", "explain.svg"])
def test_picture_in_the_documentation_equals_the_output_of_the_client(name: str) -> None:
    made = screens.generated()
    assert set(made) == {path.name for path in screens.IMAGES.iterdir()}
    assert (screens.IMAGES / name).read_text() == made[name], "run ./dev docs"


def test_pictures_of_top_and_explain_are_well_formed_xml() -> None:
    for text, words in ((screens.top(), ["unhealthy", "199.2", "shop-db-1"]), (screens.explanation(), ["nginx, pid 812"])):
        shown = " ".join(ElementTree.fromstring(text).itertext())
        assert all(word in shown for word in words)
