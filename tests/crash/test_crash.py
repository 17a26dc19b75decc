"""A fixed sample of `./dev crash`, spread evenly over operations and points. The full run is manual."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from orlop_kernel.boot.watchdog import BLOCKED

from .harness import Failure, Point, Rig
from .operations import OPERATIONS, close_shared

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

# Operation -> positions of the points among its calls, in per cent
_SAMPLE = {
    "run": (10, 30, 50, 70, 90),
    "start": (25, 50, 80),
    "create-volumes": (10, 60),
    "rm-force": (20, 50, 70, 90),
    "exec": (50,),
    "pull": (10, 35, 60, 85),
    "network-create": (30, 80),
    "network-connect": (30, 70),
    "monitor-run": (40, 80),
    "build-classic": (60,),
    "builder-build-classic": (35,),
    "adopt": (70, 90),
    "give-back": (60, 80),
    "erofs-commit": (50,),
}


class _Rigs:
    """One rig for all points. After a failure, a new rig is used, because leftovers must not fail the next point."""

    def __init__(self) -> None:
        self._rig: Rig | None = None

    def run(self, name: str, percent: int) -> None:
        operation = OPERATIONS[name]
        if self._rig is not None and self._rig.storage != operation.storage:
            self.close()
        if self._rig is None:
            self._rig = Rig(operation.storage).__enter__()
        try:
            calls = self._rig.learn(operation).calls
            number = max(1, len(calls) * percent // 100)
            # Skip points without live-restore, for which more states must be learned
            self._rig.run(Point(operation, number + (number % 5 == 0)))
        except Exception:
            rig, self._rig = self._rig, None
            with contextlib.suppress(Exception):
                rig.close()
            raise

    def close(self) -> None:
        rig, self._rig = self._rig, None
        if rig is None:
            return
        try:
            rig.close()
        except Failure as failure:
            if str(failure).startswith(BLOCKED):
                pytest.fail(str(failure), pytrace=False)  # if it is the only failure, pytest repeats the test
            raise


@pytest.fixture(scope="module")
def rigs() -> Iterator[_Rigs]:
    made = _Rigs()
    try:
        yield made
        made.close()
    finally:
        close_shared()


@pytest.mark.parametrize("name, percent", [(name, percent) for name, points in _SAMPLE.items() for percent in points])
def test_daemon_recovers_from_a_crash_at_every_sampled_point(rigs: _Rigs, name: str, percent: int) -> None:
    rigs.run(name, percent)
