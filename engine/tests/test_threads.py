"""Threads for calls that may never return: limits, hanging calls, cancelled waiters."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from orlop_engine import threads
from orlop_engine.threads import Abandonable


class Device:
    """A device whose `read` blocks until the event `gate` is set."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.begun = 0

    def read(self) -> int:
        self.begun += 1
        assert self.gate.wait(20)
        return self.begun


async def begun(device: Device, count: int) -> None:
    """Wait until `count` threads have begun to read. The mock clock does not advance during the wait."""
    for _ in range(2000):
        if device.begun == count:
            return
        await trio.to_thread.run_sync(threading.Event().wait, 0.005)
    raise AssertionError(f"{device.begun} threads, not {count}")


def run(main: Callable[[Device], object]) -> None:
    device = Device()

    async def all_of_it() -> None:
        try:
            with trio.fail_after(1000):
                await main(device)  # type: ignore[misc]
        finally:
            device.gate.set()

    trio.run(all_of_it, clock=MockClock())


async def pass_time(seconds: float) -> None:
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, MockClock)
    await wait_all_tasks_blocked()
    clock.jump(seconds)
    await wait_all_tasks_blocked()


def test_number_of_concurrent_short_calls_is_limited() -> None:
    kind = Abandonable("test", 8, turns=2)
    at_once, most, lock = 0, 0, threading.Lock()

    def work() -> None:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        threading.Event().wait(0.001)
        with lock:
            at_once -= 1

    async def main(_: Device) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(kind.run, work)

    run(main)
    assert most == 2


def test_call_that_has_hung_for_some_time_no_longer_delays_other_calls() -> None:
    kind = Abandonable("test", 4, turns=2)

    async def main(device: Device) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(kind.run, device.read)
            await begun(device, 2)
            await pass_time(threads._STUCK / 2)
            assert device.begun == 2
            await pass_time(threads._STUCK)
            await begun(device, 4)
            for _ in range(4):
                await pass_time(threads._STUCK)
            assert device.begun == 4  # the limit is `most`
            device.gate.set()

    run(main)


def test_abandoned_call_counts_towards_the_limit_until_it_returns() -> None:
    kind = Abandonable("test", 1)

    async def main(device: Device) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kind.run, device.read)
            await begun(device, 1)
            nursery.cancel_scope.cancel()
        with trio.move_on_after(5) as waiting:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(kind.run, device.read)
                await pass_time(6)
        assert waiting.cancelled_caught and device.begun == 1
        device.gate.set()
        assert await kind.run(device.read) == 2

    run(main)


def test_slot_is_released_after_a_failure_or_a_cancelled_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = Abandonable("test", 1)

    def fail() -> None:
        raise RuntimeError("of the work")

    async def main(_: Device) -> None:
        for _ in range(3):
            with pytest.raises(RuntimeError, match="of the work"):
                await kind.run(fail)
        with trio.CancelScope() as scope:
            scope.cancel()
            await kind.run(fail)
        with monkeypatch.context() as patched:
            patched.setattr(trio.to_thread, "run_sync", no_thread)
            with pytest.raises(RuntimeError, match="can't start"):
                await kind.run(fail)
        with trio.fail_after(5):
            assert await kind.run(lambda: 7) == 7

    async def no_thread(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    run(main)
