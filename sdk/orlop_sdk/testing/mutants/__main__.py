"""Runs the mutants of one kind: `python -m orlop_sdk.testing.mutants KIND`. Prints JSON: `survivors` are the faults that
their checks did not find, and `unsound` the checks that the driver without a fault did not pass."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from contextlib import redirect_stdout, suppress

import pytest

from orlop_sdk import linux
from orlop_sdk.testing.mutants import KINDS, Mutant, mutants

__all__: list[str] = []


class _Chosen:
    """A pytest plugin that runs only the check of each mutant, and notes failures."""

    def __init__(self, found: tuple[Mutant, ...]) -> None:
        self._checks = {f"Test{number}": mutant.check for number, mutant in enumerate(found)}
        self.ran: set[str] = set()
        self.failed: set[str] = set()
        self.unsound: list[str] = []

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        kept = []
        for item in items:
            name = item.nodeid.split("::")[1]
            if name not in self._checks or item.name.partition("[")[0] == self._checks[name]:
                kept.append(item)
        items[:] = kept

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.split("::")[1]
        self.ran.add(name)
        if report.failed and name in self._checks:
            self.failed.add(name)
        elif report.failed:
            self.unsound.append(report.nodeid.partition("::")[2])


def _end_orphans() -> None:
    """Kill the processes that broken runtimes have left: this process is their parent (see `set_subreaper`)."""
    while True:
        children = linux.children() if hasattr(linux, "children") else _children()
        if not children:
            return
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _children() -> list[int]:
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return [int(word) for word in file.read().split()]


def main(kind: str) -> int:
    if kind not in KINDS:
        print(f"usage: python -m orlop_sdk.testing.mutants {'|'.join(KINDS)}", file=sys.stderr)
        return 2
    os.environ["ORLOP_MUTANTS"] = kind
    found = mutants(kind)
    chosen = _Chosen(found)
    linux.set_subreaper()
    target = os.path.join(os.path.dirname(__file__), "_suites.py")
    with tempfile.TemporaryDirectory(prefix="om-") as top, redirect_stdout(sys.stderr):
        options = ["-q", "--tb=line", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", top, f"--basetemp={top}/t"]
        status = pytest.main([*options, target], plugins=[chosen])
        _end_orphans()
    names = {f"Test{number}": mutant for number, mutant in enumerate(found)}
    survivors = [f"{mutant.fault} ({mutant.check})" for name, mutant in names.items() if name not in chosen.failed]
    print(json.dumps({"mutants": len(found), "survivors": survivors, "unsound": chosen.unsound, "status": int(status)}))
    return 0 if not survivors and not chosen.unsound else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else ""))
