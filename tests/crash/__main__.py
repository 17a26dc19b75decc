"""`./dev crash`: kill Orlop at every state-changing system call of every operation, and check the state after a restart."""

from __future__ import annotations

import argparse
import collections
import sys
import time
import traceback

from .harness import Failure, Point, Rig
from .operation import Operation
from .operations import OPERATIONS, close_shared

_SHOWN = 12  # lines shown of a failure


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev crash", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="OPERATION[:N]",
        help="test only this operation, or one point of the operation; may be repeated",
    )
    parser.add_argument("--every", type=int, default=1, metavar="N", help="test only every N-th point")
    parser.add_argument(
        "--list", action="store_true", help="list the operations and their points, without killing a process"
    )
    parser.add_argument("--traceback", action="store_true", help="show where a failure was raised")
    options = parser.parse_args()
    wanted: dict[str, list[int]] = {}
    for text in options.only or OPERATIONS:
        name, _, number = text.partition(":")
        if name not in OPERATIONS:
            parser.error(f"unknown operation {name}; there are: {', '.join(OPERATIONS)}")
        wanted.setdefault(name, []).extend([int(number)] if number else [])
    run = _Run(options)
    try:
        for name, numbers in wanted.items():
            run.operation(OPERATIONS[name], numbers)
    finally:
        run.close()
        close_shared()
    return run.report()


class _Run:
    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._rig: Rig | None = None
        self._ran: collections.Counter[str] = collections.Counter()
        self._points: dict[str, int] = {}
        self._failed: list[str] = []
        self._began = time.monotonic()

    def _rig_for(self, operation: Operation) -> Rig:
        if self._rig is not None and self._rig.storage != operation.storage:
            self.close()
        if self._rig is None:
            self._rig = Rig(operation.storage).__enter__()
        return self._rig

    def close(self) -> None:
        """Report the result of the rig's final check, like the result of a point."""
        if self._rig is not None:
            rig, self._rig = self._rig, None
            try:
                rig.close()
            except Failure as failure:
                self._fail("the end", failure)

    def _fail(self, what: str, failure: BaseException) -> None:
        self._failed.append(what)
        lines = str(failure).splitlines() or [repr(failure)]
        print(f"\nFAILED {what}: " + "\n".join(lines[:_SHOWN]) + ("\n  ..." if len(lines) > _SHOWN else ""))
        if self._options.traceback:
            traceback.print_exception(failure)
        print(f"  again: ./dev crash --only {what}", flush=True)

    def operation(self, operation: Operation, numbers: list[int]) -> None:
        try:
            calls = self._rig_for(operation).learn(operation).calls
        except Exception as failure:
            self._fail(operation.name, failure)
            self._start_over()
            return
        self._points[operation.name] = len(calls)
        if self._options.list:
            print(f"{operation.name}: {len(calls)} points")
            for number, call in enumerate(calls, 1):
                print(f"  {operation.name}:{number} {call}")
            return
        # One point is beyond the last call: the process is killed when the operation is complete
        chosen = numbers or range(1, len(calls) + 2, self._options.every)
        for place, number in enumerate(chosen, 1):
            print(f"\r\033[K{operation.name} {place} of {len(chosen)}, {len(self._failed)} failed", end="", flush=True)
            self._ran[operation.name] += 1
            try:
                self._rig_for(operation).run(Point(operation, number))
            except Exception as failure:
                self._fail(f"{operation.name}:{number}", failure)
                self._start_over()
        print(f"\r\033[K{operation.name}: {len(chosen)} run of {len(calls)} points", flush=True)

    def _start_over(self) -> None:
        """Use a new rig, because leftovers of a failure must not fail the next point."""
        rig, self._rig = self._rig, None
        if rig is not None:
            log = rig.engine.log()[-1500:]
            try:
                rig.close()
            except Exception as failure:
                print(f"  and {failure}")
            if self._options.traceback:
                print(log)

    def report(self) -> int:
        took = time.monotonic() - self._began
        print(f"{sum(self._ran.values())} points of {len(self._ran)} operations in {took:.0f} s, {len(self._failed)} failed")
        for what in self._failed:
            print(f"  {what}")
        return 1 if self._failed else 0


sys.exit(main())
