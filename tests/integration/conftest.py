from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.integration.engine import Engine
from tests.integration.parity import Side, beside_dockerd


@pytest.fixture(scope="module")
def sides(shared: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Side, Side]]:
    """dockerd and orlopd, in this order."""
    with beside_dockerd(shared, tmp_path_factory.mktemp("dockerd")) as both:
        yield both
