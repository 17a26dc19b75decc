"""Deadlines of synchronous methods and properties of plugins."""

from __future__ import annotations

import signal
import threading
import time

import pytest
import trio

from orlop_engine import calls, interrupt
from orlop_engine.calls import MISSES, Gate, guard
from orlop_sdk import DeadlineExceeded, DriverError, LogDriver, Unavailable, VolumeCapabilities, VolumeDriver
from orlop_sdk.testing import FakeLog

from .test_calls import Sound

SHORT = 0.05  # the watchdog of tests allows the event loop to wait for 0.1 s


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(calls, "SYNCHRONOUS", SHORT)


def spin():
    while True:
        pass


class Log(FakeLog):
    def __init__(self, behave):
        super().__init__()
        self.behave = behave

    def validate(self, options):
        self.behave()


def log_driver(behave):
    gate = Gate('log driver "x"')
    return gate, guard(gate, Log(behave), LogDriver)


@pytest.mark.parametrize("behave", [lambda: time.sleep(100), spin], ids=["blocks", "loops"])
def test_a_synchronous_method_that_hangs_is_interrupted(behave):
    gate, driver = log_driver(behave)
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r'cannot validate: log driver "x" gave no answer in 0.05 s'):
        driver.validate({})
    assert SHORT <= time.monotonic() - began < 20
    assert gate.failures == {"deadline": 1}


def test_signal_is_repeated_when_a_method_ignores_it():
    """The first signal ends the suppressed sleep. The loop then ends by itself, and its answer is used."""
    hits = []

    def stubborn():
        for _ in range(2):
            try:
                time.sleep(100)
            except interrupt.TooLong:
                hits.append(1)
        time.sleep(100)

    gate, driver = log_driver(stubborn)
    with pytest.raises(DeadlineExceeded):
        driver.validate({})
    assert len(hits) == 2 and gate.failures == {"deadline": 1}


def test_event_loop_continues_after_a_hanging_method():
    async def main():
        _, driver = log_driver(lambda: time.sleep(100))
        with pytest.raises(DeadlineExceeded):
            driver.validate({})
        await trio.sleep(0.01)
        assert await trio.to_thread.run_sync(lambda: 1) == 1

    trio.run(main)


def test_a_property_has_a_deadline():
    class Slow(Sound):
        checked = False

        @property
        def capabilities(self):
            if self.checked:
                time.sleep(100)
            return VolumeCapabilities()

    gate, plugin = Gate('volume driver "x"'), Slow()
    driver = guard(gate, plugin, VolumeDriver)
    plugin.checked = True
    with pytest.raises(DeadlineExceeded, match="cannot read capabilities"):
        _ = driver.capabilities
    assert gate.failures == {"deadline": 1}


def test_methods_that_hang_open_the_breaker():
    gate, driver = log_driver(lambda: time.sleep(100))
    for _ in range(MISSES):
        with pytest.raises(DeadlineExceeded):
            driver.validate({})
    began = time.monotonic()
    with pytest.raises(Unavailable, match="did not answer 3 calls in a row"):
        driver.validate({})
    assert time.monotonic() - began < SHORT and gate.degraded


def test_error_of_a_method_does_not_open_the_breaker():
    behaviors = [lambda: time.sleep(100)] * (MISSES - 1) + [lambda: 1 / 0, lambda: time.sleep(100)]
    gate, driver = log_driver(lambda: behaviors.pop(0)())
    for expected in (*[DeadlineExceeded] * (MISSES - 1), DriverError, DeadlineExceeded):
        with pytest.raises(expected):
            driver.validate({})
    assert not gate.degraded


def test_earlier_timer_is_restored():
    """pytest's own time limit is such a timer, and its handler stays in force."""
    fired = []
    before = signal.signal(signal.SIGALRM, lambda *_: fired.append(1))
    earlier = signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        assert interrupt.within(60, lambda: time.sleep(0.1) or 7) == 7
        assert not fired
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 0.21
        time.sleep(0.5)
        assert fired == [1]
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *earlier)


def test_no_signal_after_the_call():
    _, driver = log_driver(lambda: None)
    driver.validate({})
    assert interrupt.within(0.01, lambda: 7) == 7
    time.sleep(0.05)


def test_other_threads_are_not_interrupted():
    found = []
    thread = threading.Thread(target=lambda: found.append(interrupt.within(0.01, lambda: time.sleep(0.1) or 7)))
    thread.start()
    thread.join()
    assert found == [7]
