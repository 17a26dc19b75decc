"""Deadlines of synchronous methods of plugins. `calls.asked` runs them on threads, so the event loop goes on."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager

import pytest
import trio

from orlop_engine import calls
from orlop_engine.calls import MISSES, Gate, asked, guard
from orlop_sdk import DeadlineExceeded, DriverError, InvalidParameter, LogDriver, Unavailable
from orlop_sdk.testing import FakeLog

SHORT = 0.05


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(calls, "SYNCHRONOUS", SHORT)


class Log(FakeLog):
    def __init__(self, behave):
        super().__init__()
        self.behave = behave

    def validate(self, options):
        self.behave()


def log_driver(behave):
    gate = Gate('log driver "x"')
    return gate, guard(gate, Log(behave), LogDriver)


@contextmanager
def hanging():
    """A function that returns only when the test has ended."""
    over = threading.Event()
    try:
        yield over.wait
    finally:
        over.set()


async def settled(gate):
    while gate.abandoned:  # noqa: ASYNC110 - threads are waited for
        await trio.sleep(0.001)


def test_method_that_hangs_fails_at_its_deadline_and_the_event_loop_goes_on():
    async def main():
        with hanging() as hang:
            gate, driver = log_driver(hang)
            passed = []

            async def other():
                while not gate.failures:
                    passed.append(1)
                    await trio.sleep(SHORT / 10)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(other)
                began = time.monotonic()
                with pytest.raises(DeadlineExceeded, match=r'cannot validate: log driver "x" gave no answer in 0.05 s'):
                    await asked(driver.validate, {})
            assert SHORT <= time.monotonic() - began < 20
            assert gate.failures == {"deadline": 1} and gate.abandoned == 1 and len(passed) > 1
        await settled(gate)

    trio.run(main)


def test_method_of_a_plugin_runs_on_a_thread():
    threads = []
    _, driver = log_driver(lambda: threads.append(threading.current_thread()))
    trio.run(asked, driver.validate, {})
    assert threads and threading.main_thread() not in threads


def test_method_of_an_object_without_a_guard_is_called_directly():
    assert trio.run(asked, FakeLog().validate, {}) is None


def test_answer_is_passed_on_and_an_answer_of_a_wrong_type_is_a_driver_error():
    class Named(FakeLog):
        def path(self, info):
            return info

    async def main():
        driver = guard(Gate("x"), Named(), LogDriver)
        assert await asked(driver.path, "/there") == "/there"
        with pytest.raises(DriverError, match="cannot path: x returned int, not str"):
            await asked(driver.path, 7)

    trio.run(main)


def test_calls_fail_immediately_after_three_calls_in_a_row_have_hung():
    async def main():
        with hanging() as hang:
            gate, driver = log_driver(hang)
            for _ in range(MISSES):
                with pytest.raises(DeadlineExceeded):
                    await asked(driver.validate, {})
            began = time.monotonic()
            for call in (lambda: asked(driver.validate, {}), lambda: trio.to_thread.run_sync(driver.validate, {})):
                with pytest.raises(Unavailable, match="did not answer 3 calls in a row"):
                    await call()
            assert time.monotonic() - began < 5 and gate.degraded
        await settled(gate)

    trio.run(main)


def test_number_of_threads_of_a_hanging_plugin_is_limited(monkeypatch):
    """Calls beyond the limit wait for a thread, and end at the deadline as well."""
    monkeypatch.setattr(calls, "THREADS", 2)
    began = []

    async def main():
        with hanging() as hang:
            gate, driver = log_driver(lambda: began.append(1) or hang())

            async def call():
                with pytest.raises(DeadlineExceeded):
                    await asked(driver.validate, {})

            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(call)
            assert len(began) == gate.abandoned == 2
        await settled(gate)

    trio.run(main)


def test_cancelled_caller_does_not_wait_for_a_hanging_method():
    async def main():
        with hanging() as hang:
            gate, driver = log_driver(hang)
            with trio.move_on_after(0):
                await asked(driver.validate, {})
            assert not gate.failures
        await settled(gate)

    trio.run(main)


def test_call_after_a_cancelled_trial_is_the_next_trial():
    async def main():
        with hanging() as hang:
            behaviors = [hang] * (MISSES + 1) + [lambda: None]
            gate, driver = log_driver(lambda: behaviors.pop(0)())
            for _ in range(MISSES):
                with pytest.raises(DeadlineExceeded):
                    await asked(driver.validate, {})
            gate._retry_at = 0
            with trio.move_on_after(SHORT / 2):
                await asked(driver.validate, {})
            await asked(driver.validate, {})
            assert not gate.degraded
        await settled(gate)

    trio.run(main)


def test_call_that_raises_an_error_does_not_count_as_hanging():
    def refuse():
        raise InvalidParameter("no")

    async def main():
        with hanging() as hang:
            behaviors = [hang] * (MISSES - 1) + [refuse, hang]
            gate, driver = log_driver(lambda: behaviors.pop(0)())
            for expected in (*[DeadlineExceeded] * (MISSES - 1), InvalidParameter, DeadlineExceeded):
                with pytest.raises(expected):
                    await asked(driver.validate, {})
            assert not gate.degraded
        await settled(gate)

    trio.run(main)


def test_answer_after_the_deadline_is_discarded():
    async def main():
        with hanging() as hang:
            gate, driver = log_driver(hang)
            with pytest.raises(DeadlineExceeded):
                await asked(driver.validate, {})
        await settled(gate)
        assert gate.failures == {"deadline": 1}

    trio.run(main)
