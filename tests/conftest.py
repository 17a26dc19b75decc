"""Fixtures of real daemons. When a test fails, the daemon's log of that test is printed. A test in which a daemon reported a
blocked event loop (`orlop_kernel.boot.watchdog`) fails.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.integration.engine import Engine

from orlop_kernel.boot.watchdog import BLOCKED

_names = itertools.count(1)
_living: list[Engine] = []
_logged: dict[str, int] = {}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    for engine in _living:
        _logged[engine.socket] = len(engine.log())


def _check_loops() -> None:
    found = [line for engine in _living for line in engine.blocked()]
    if found:
        pytest.fail(f"{BLOCKED}:\n" + "\n".join(found), pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    yield
    _check_loops()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Iterator[None]:
    yield
    _check_loops()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    report: Any = yield
    if report.failed:
        for engine in _living:
            text = engine.log()[_logged.get(engine.socket, 0) :]
            report.sections.append((f"log of orlopd at {engine.home}", text[-20_000:]))
    return report


def _open(**options: Any) -> Engine:
    engine = Engine(**options)
    _living.append(engine)
    return engine


def _close(engine: Engine) -> None:
    try:
        left = engine.close()
    finally:
        _living.remove(engine)
    if left and all(BLOCKED in line for line in left):
        pytest.fail(f"{BLOCKED}:\n" + "\n".join(left), pytrace=False)
    assert not left, "the daemon left on the host:\n" + "\n".join(left)


@pytest.fixture(scope="session")
def shared() -> Iterator[Engine]:
    """The shared daemon, for all tests that need no special configuration. The image busybox is loaded."""
    engine = _open(config={"shutdown-timeout": 3})
    try:
        engine.start()
        engine.load()
        yield engine
    finally:
        _close(engine)


@pytest.fixture
def engine(shared: Engine) -> Iterator[Engine]:
    """The shared daemon. When the test ends, its containers are removed, and the daemon must still be healthy."""
    yield shared
    assert shared.process is not None
    assert shared.process.poll() is None, "the daemon ended"
    left = shared.docker("ps", "-aq").out.split()
    if left:
        shared.docker("rm", "-fv", *left, check=0)


@pytest.fixture
def fresh() -> Iterator[Callable[..., Engine]]:
    """Returns a function `fresh(**daemon_json)` that starts a daemon for this test only, with the image busybox."""
    made: list[Engine] = []

    def make(config: dict[str, Any] | None = None, **options: Any) -> Engine:
        one = _open(config=config, **options)
        made.append(one)
        one.start()
        one.load()
        return one

    yield make
    for one in made:
        _close(one)


@pytest.fixture
def name() -> str:
    """A container name that no other test has."""
    return f"c{next(_names)}"
