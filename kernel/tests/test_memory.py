"""Freed memory is released while the daemon is idle, and immediately when there is much of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from orlop_kernel.boot import memory

MIB = 1 << 20


class Process:
    """A fake process whose memory and processor time the test sets."""

    def __init__(self) -> None:
        self.resident = self.needed = 50 * MIB
        self.busy = False
        self.worked = 0.0
        self.released = 0

    def processor(self) -> float:
        return self.worked + (trio.current_time() if self.busy else 0.0)

    def release(self) -> None:
        self.released += 1
        self.resident = self.needed

    def run(self, main: Callable[[], Awaitable[None]]) -> None:
        async def all_of_it() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(memory.release_when_idle, lambda: self.resident, self.processor, self.release)
                await trio.sleep(20)
                assert not self.released
                await main()
                nursery.cancel_scope.cancel()

        trio.run(all_of_it, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize(("grown", "busy", "released"), [(3, False, 0), (10, False, 1), (10, True, 0), (100, True, 1)])
def test_grown_memory_of_an_idle_process_is_released_once(grown: int, busy: bool, released: int) -> None:
    process = Process()

    async def main() -> None:
        process.resident += grown * MIB
        process.worked += 1
        process.busy = busy
        await trio.sleep(300)
        assert process.released == released

    process.run(main)


def test_memory_that_was_in_use_at_the_first_release_is_released_later() -> None:
    """If a release freed nothing, the next release follows only after the process has done some work, because a process
    without work frees no memory."""
    process = Process()

    async def main() -> None:
        process.resident = process.needed = 150 * MIB
        process.worked += 1
        await trio.sleep(300)
        assert process.released == 1
        process.needed = 50 * MIB
        process.worked += 0.1
        await trio.sleep(300)
        assert process.released == 2
        assert process.resident == 50 * MIB

    process.run(main)


def test_resident_memory_is_measured() -> None:
    before = memory.resident()
    held = bytearray(64 * MIB)
    assert memory.resident() - before > 60 * MIB
    del held


def test_slow_garbage_collection_is_not_repeated_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    now, collections = [0.0], [0]
    monkeypatch.setattr(memory, "_FEW_OBJECTS", 1 << 40)
    monkeypatch.setattr(memory, "_QUICK", -1.0)  # treat every collection as slow

    def collect() -> None:
        collections[0] += 1

    release = memory.Releaser(lambda: now[0], collect)
    for at, wanted in ((0.0, 1), (5.0, 1), (599.0, 1), (601.0, 2)):
        now[0] = at
        release()
        assert collections[0] == wanted
    monkeypatch.setattr(memory, "_QUICK", 60.0)
    for at, wanted in ((1300.0, 3), (1301.0, 4)):
        now[0] = at
        release()
        assert collections[0] == wanted
