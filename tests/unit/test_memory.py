"""When memory is given back: while the daemon is idle, and at once where there is much of it."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from orlop_kernel.boot import memory

MIB = 1 << 20


class Process:
    """A process whose memory and work are what the test says."""

    def __init__(self, resident: int) -> None:
        self.resident = resident
        self.needed = resident
        self.busy = 0.0
        self.released = 0

    def processor(self) -> float:
        return trio.current_time() * self.busy

    def release(self) -> None:
        self.released += 1
        self.resident = self.needed


@pytest.mark.parametrize(
    ("grown", "busy", "released"),
    [(3, 0.0, 0), (10, 0.0, 1), (10, 0.5, 0), (100, 0.5, 1)],
)
def test_what_has_grown_is_released_once(grown: int, busy: float, released: int) -> None:
    process = Process(50 * MIB)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(memory.release_when_idle, lambda: process.resident, process.processor, process.release)
            await trio.sleep(20)
            assert not process.released
            process.resident += grown * MIB
            process.busy = busy
            await trio.sleep(300)
            assert process.released == released
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_memory_that_is_in_use_is_not_tried_again_and_again() -> None:
    process = Process(50 * MIB)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(memory.release_when_idle, lambda: process.resident, process.processor, process.release)
            await trio.sleep(20)
            process.resident = process.needed = 90 * MIB
            await trio.sleep(300)
            assert process.released == 1
            process.resident += 10 * MIB
            await trio.sleep(20)
            assert process.released == 2
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_how_much_there_is() -> None:
    before = memory.resident()
    held = bytearray(64 * MIB)
    assert memory.resident() - before > 60 * MIB
    del held
