"""The network thread: order, errors, and undo of cancelled calls."""

from __future__ import annotations

import threading

import pytest
import trio
import trio.testing

from orlop_sdk import DriverError
from orlop_sdk.networking import Worker


def test_calls_run_one_at_a_time_in_one_thread() -> None:
    async def main() -> None:
        worker = Worker("test")
        seen: list[int] = []

        async def ask(number: int) -> None:
            assert await worker.run(lambda: seen.append(number) or threading.get_ident()) != threading.get_ident()  # type: ignore[func-returns-value]

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(ask, number)
        assert sorted(seen) == list(range(20))
        with pytest.raises(ZeroDivisionError):
            await worker.run(lambda: 1 // 0)
        await worker.close(lambda: seen.append(-1))
        assert seen[-1] == -1
        with pytest.raises(DriverError):
            await worker.run(lambda: None)
        await worker.close(lambda: None)

    trio.run(main)


def test_cancelled_work_is_undone() -> None:
    async def main() -> None:
        worker = Worker("test")
        begun, go_on = threading.Event(), threading.Event()
        undone: list[str] = []
        never: list[str] = []

        def work() -> str:
            begun.set()
            assert go_on.wait(10)
            return "made"

        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.run, work, undone.append)
            await trio.to_thread.run_sync(begun.wait)
            nursery.start_soon(worker.run, lambda: never.append("ran"))
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        go_on.set()
        await worker.run(lambda: None)
        await worker.run(lambda: None)  # wait for the undo, which is queued behind the earlier functions
        await worker.close(lambda: None)
        assert undone == ["made"] and not never

    trio.run(main)


def test_deferred_work_runs_at_close() -> None:
    async def main() -> None:
        worker = Worker("test")
        done: list[str] = []
        await worker.run(lambda: worker.later(3600, lambda: done.append("late")))
        await worker.run(lambda: worker.later(0, lambda: done.append("soon")))
        await worker.close(lambda: done.append("last"))
        assert done == ["soon", "late", "last"]

    trio.run(main)
