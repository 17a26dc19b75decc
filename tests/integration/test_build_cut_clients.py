"""Clients that disconnect after some message of a build. `python -m tests.integration.building.cutting` tries all
messages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.integration.building.cutting import EXPORTS, Cutter
from tests.integration.building.cutting_requests import CONTEXTS, RequestCutter
from tests.integration.engine import Engine

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

SAMPLE = 8


@pytest.fixture(scope="module")
def cutter() -> Iterator[Cutter]:
    engine = Engine({"shutdown-timeout": 3})
    engine.start()
    engine.load()
    made = Cutter(engine)
    made.build("image")  # after this build, the builder runs and has the context
    yield made
    try:
        made.pruned()
    finally:
        left = engine.close()
    assert left == []


def cut_sample(cutter: Cutter, name: str) -> None:
    count = cutter.cut(name)[1]
    for number in range(SAMPLE):
        cutter.cut(name, count * (2 * number + 1) // (2 * SAMPLE))  # in the middle of equal parts of the build
        cutter.sound()


@pytest.mark.parametrize("export", EXPORTS)
def test_buildx_build_ends_when_its_client_disconnects(cutter: Cutter, export: str) -> None:
    cut_sample(cutter, export)


@pytest.mark.parametrize("context", CONTEXTS)
def test_classic_build_ends_when_its_client_disconnects(cutter: Cutter, context: str) -> None:
    requests = RequestCutter(cutter.engine)
    assert b"Successfully tagged cut:1" in requests.cut(context)[0]
    cut_sample(requests, context)
