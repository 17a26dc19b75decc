"""pytest fixtures with a throwaway engine. pytest finds them when the sdk is installed. `orlop_sdk.testing.engines` says
what the engine can do without root.

    @pytest.fixture(scope="session")
    def orlop_config():                     # in conftest.py: the daemon.json of `orlop_engine`
        return {"log-driver": "mine"}

    def test_mine(orlop_engine): ...
    def test_other_options(fresh_orlop_engine):
        engine = fresh_orlop_engine({"log-driver": "mine", "log-opts": {"max-size": "1m"}})
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .engines import Engine

__all__ = ["fresh_orlop_engine", "orlop_config", "orlop_engine"]

Config = Mapping[str, Any]


def _enter(stack: ExitStack, config: Config | None) -> Engine:
    from .engines import EngineUnavailable, engine  # not at the top: pytest imports this module in every run

    try:
        return stack.enter_context(engine(config))
    except EngineUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def orlop_config() -> Config:
    """Override this fixture to configure `orlop_engine`."""
    return {}


@pytest.fixture(scope="session")
def orlop_engine(orlop_config: Config) -> Iterator[Engine]:
    """An engine for all tests of the session. Tests remove the objects that they do not share."""
    with ExitStack() as stack:
        yield _enter(stack, orlop_config)


@pytest.fixture
def fresh_orlop_engine() -> Iterator[Callable[..., Engine]]:
    """A function `fresh_orlop_engine(config)`, which starts an engine for this test only."""
    with ExitStack() as stack:

        def start(config: Config | None = None) -> Engine:
            return _enter(stack, config)

        yield start
