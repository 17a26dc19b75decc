"""For all tests, those of the drivers too: a test in which an event loop was blocked for longer than 100 ms fails.

Every `trio.run` of pytest's own thread gets the daemon's own watchdog. Tests in a network namespace run in another thread,
and block there on programs and sockets. Real daemons have theirs on (`tests.integration.engine`); their logs are read by
`tests/conftest.py`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import pytest
import trio

from orlop_kernel.boot.watchdog import THRESHOLD, Blocked, LoopWatchdog

_blocked: list[str] = []
_run = trio.run


@wraps(trio.run)
def _watched(async_fn: Callable[..., Any], *args: Any, instruments: Any = (), **options: Any) -> Any:
    if threading.current_thread() is not threading.main_thread():
        return _run(async_fn, *args, instruments=instruments, **options)
    watchdog = LoopWatchdog(_report, THRESHOLD)
    try:
        return _run(async_fn, *args, instruments=[*instruments, watchdog], **options)
    finally:
        watchdog.close()


def _report(found: Blocked) -> None:
    if not found.disk:  # another test run's disk, too
        _blocked.append(str(found))


def pytest_configure() -> None:
    trio.run = _watched


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    _blocked.clear()
    yield
    if _blocked:
        pytest.fail("\n".join(_blocked), pytrace=False)
