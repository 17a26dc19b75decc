"""Fails a test in which an event loop was blocked for longer than 100 ms. Applies to all tests, including those of drivers.

Such a test is run a second time before it fails: code that blocks the loop does so again, a slow machine may not.

Every `trio.run` in pytest's own thread gets the daemon's watchdog. Tests in a network namespace run in another thread, where
they block on programs and sockets. Real daemons run with their own watchdog (`tests.integration.engine`);
`tests/conftest.py` reads their logs.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import pytest
import trio
from _pytest.runner import runtestprotocol
from hypothesis import settings

from orlop_kernel.boot.watchdog import BLOCKED, THRESHOLD, Blocked, LoopWatchdog
from orlop_sdk.testing.busy import tolerated

# How long an example takes says how busy the machine is
settings.register_profile("orlop", deadline=None)
settings.load_profile("orlop")

_blocked: list[str] = []
_REPEATED = "repeated"  # the property of a report that holds why its test ran a second time
_collecting = [0.0, 0.0]  # seconds spent in the garbage collector so far, and when it began
_run = trio.run


@wraps(trio.run)
def _watched(async_fn: Callable[..., Any], *args: Any, instruments: Any = (), **options: Any) -> Any:
    if threading.current_thread() is not threading.main_thread():
        return _run(async_fn, *args, instruments=instruments, **options)
    watchdog = _Watchdog()
    try:
        return _run(async_fn, *args, instruments=[*instruments, watchdog], **options)
    finally:
        watchdog.close()


class _Watchdog(LoopWatchdog):
    """Excludes the time of the garbage collector, which in tests visits all modules of all tests."""

    def __init__(self) -> None:
        super().__init__(self._found, THRESHOLD)
        self._before = 0.0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._before = _collecting[0]
        super().before_task_step(task)

    def _found(self, found: Blocked) -> None:
        if not found.disk and found.seconds - (_collecting[0] - self._before) > tolerated():
            _blocked.append(str(found))


def _count_collection(phase: str, _: object) -> None:
    if phase == "start":
        _collecting[1] = time.perf_counter()
    else:
        _collecting[0] += time.perf_counter() - _collecting[1]


def pytest_configure() -> None:
    trio.run = _watched
    gc.callbacks.append(_count_collection)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = runtestprotocol(item, log=False, nextitem=nextitem)
    failed = [report.longreprtext for report in reports if report.failed]
    if failed and all(text.startswith(BLOCKED) for text in failed):
        # A daemon that tests share knows names and events of this test: the second run gets another
        end = pytest.CallInfo.from_call(lambda: item.session._setupstate.teardown_exact(None), "teardown")
        ended = item.ihook.pytest_runtest_makereport(item=item, call=end)
        reports = [ended] if ended.failed else runtestprotocol(item, log=False, nextitem=nextitem)
        reports[0].user_properties.append((_REPEATED, "\n".join([item.nodeid, *failed])))
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for found in terminalreporter.stats.values() for report in found]
    texts = {text for report in reports for name, text in getattr(report, "user_properties", ()) if name == _REPEATED}
    if texts:
        terminalreporter.section("tests run a second time")
        terminalreporter.write_line("\n".join(sorted(texts)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    _blocked.clear()
    yield
    if _blocked:
        pytest.fail("\n".join(_blocked), pytrace=False)
