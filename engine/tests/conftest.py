"""The `networks_fixture` of the engine's tests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from networks_fixture import NetworksFixture


@pytest.fixture
def networks_fixture(tmp_path: Path) -> Callable[..., None]:
    def run(body: Callable[[NetworksFixture], Awaitable[None]], **config: Any) -> None:
        async def main() -> None:
            made = NetworksFixture(tmp_path, **config)
            async with made.daemon():
                await body(made)

        trio.run(main)

    return run
