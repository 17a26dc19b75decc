"""Tries mutants: pytest collects the tests once, in a confined process; a forked process changes the functions of a mutant,
and runs the tests that reach its lines.
"""

from __future__ import annotations

import ast
import gc
import importlib
import importlib.util
import json
import mmap
import os
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from . import confinement, forks
from .areas import Area
from .coverage import LinesReached
from .mutants import Mutant, mutants
from .patching import Functions

__all__ = ["Outcome", "source_of", "try_mutants"]

_SURE = 4.0
"""If the tests take this many times as long as without the mutant, and some seconds more, the mutant hangs and is killed."""
_SECONDS = 8.0
_FILE_SECONDS = 1800.0
_NOT_LOADED = 71
"""Exit status of a process whose mutant changes no function, because the code runs only at import."""


@dataclass(frozen=True)
class Outcome:
    """Names of mutants, in the order of the source. `noticed` maps a mutant to the test that failed first, or to "" if the
    tests did not end. The tests in `failing` fail even without a change, so they were left out."""

    survivors: tuple[str, ...]
    noticed: dict[str, str]
    failing: tuple[str, ...]


def source_of(module: str) -> str:
    """The path of a module's source."""
    package, *names = module.split(".")
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.submodule_search_locations
    return os.path.join(spec.submodule_search_locations[0], *names) + ".py"


def try_mutants(area: Area, wanted: Callable[[str], bool], jobs: int) -> Outcome:
    """Try the mutants of an area whose name is `wanted`, in a process of its own. Raises `RuntimeError` if that fails."""
    with tempfile.TemporaryFile() as result, tempfile.TemporaryFile() as log:
        child = os.fork()
        if child == 0:
            code = 70
            try:
                null = os.open(os.devnull, os.O_RDONLY)
                for fd, place in enumerate((null, log.fileno(), log.fileno())):
                    os.dup2(place, fd)
                confinement.confine(root=area.root)
                code = _run_pytest(_Trials(area, wanted, jobs, result.fileno()), area)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        status = os.waitpid(child, 0)[1]
        log.seek(0)
        result.seek(0)
        if status or not (text := result.read()):
            raise RuntimeError(f"the tests cannot be run:\n{log.read().decode(errors='replace')}")
        survivors, noticed, failing = json.loads(text)
        return Outcome(tuple(survivors), noticed, tuple(failing))


def _run_pytest(plugin: _Trials, area: Area) -> int:
    marked = "not alone" if os.geteuid() == 0 else "not alone and not root"
    # The modules of the sdk with fixtures were imported before
    imported = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"
    options = ["-q", "-s", "-p", "no:cacheprovider", "-m", marked, "--hypothesis-seed=0", "-W", imported]
    return int(pytest.main([*options, *area.tests], plugins=[plugin]))


@dataclass
class _Reach:
    """The numbers of the tests that reach a line, and the seconds that each test takes."""

    tests: dict[tuple[str, int], set[int]] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)
    failing: set[int] = field(default_factory=set)

    def reaching(self, source: str, mutant: Mutant) -> list[int]:
        """The numbers of the tests that reach the lines, the fastest test first."""
        lines = range(mutant.first, mutant.last + 1)
        found = set().union(*(self.tests.get((source, line), ()) for line in lines)) - self.failing
        return sorted(found, key=lambda number: self.seconds[number])


class _Trials:
    """A pytest plugin that tries mutants with the collected tests instead of running them once."""

    def __init__(self, area: Area, wanted: Callable[[str], bool], jobs: int, result: int) -> None:
        self._sources = {module: source_of(module) for module in area.modules}
        self._wanted, self._jobs, self._result = wanted, jobs, result

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            raise session.Interrupted("a file of tests cannot be imported")
        for module in self._sources:
            importlib.import_module(module)
        functions = Functions(list(self._sources.values()))
        gc.freeze()
        reach = self._measure(session)
        self._leave_out_dependent(session, reach)
        trials: list[_Trial] = []
        for module, source in self._sources.items():
            tree = ast.parse(Path(source).read_text())
            for mutant in mutants(module, tree):
                if self._wanted(mutant.name):
                    tests = reach.reaching(source, mutant)
                    trials.append(_Trial(session, functions, source, tree, mutant, tests))
        self._report(session, reach, trials)
        return True

    def _report(self, session: pytest.Session, reach: _Reach, trials: Sequence[_Trial]) -> None:
        noticed: dict[str, str] = {}
        with mmap.mmap(-1, 4 * len(trials) or 4) as failed:
            works = [
                forks.Fork(partial(trial.run, failed, 4 * number), _limit(reach, trial.tests))
                for number, trial in enumerate(trials)
            ]
            for number, status in forks.run(works, self._jobs):
                name = trials[number].mutant.name
                if status == forks.FAILED:
                    raise RuntimeError(f"cannot try {name}")
                if status not in (0, _NOT_LOADED):
                    (test,) = struct.unpack_from("i", failed, 4 * number)
                    noticed[name] = session.items[test - 1].nodeid if test else ""
        survivors = [trial.mutant.name for trial in trials if trial.mutant.name not in noticed]
        failing = sorted(session.items[number].nodeid for number in reach.failing)
        os.write(self._result, json.dumps([survivors, noticed, failing]).encode())

    def _measure(self, session: pytest.Session) -> _Reach:
        """Run every test once, without a change."""
        files: dict[str, list[int]] = {}
        for number, item in enumerate(session.items):
            files.setdefault(item.nodeid.partition("::")[0], []).append(number)
        numbers = list(files.values())
        reports = [os.memfd_create("reached") for _ in numbers]
        works = [
            forks.Fork(lambda tests=tests, report=report: self._observe(session, tests, report), _FILE_SECONDS)
            for tests, report in zip(numbers, reports, strict=True)
        ]
        reach = _Reach()
        for done, status in forks.run(works, self._jobs):
            os.lseek(reports[done], 0, os.SEEK_SET)
            with open(reports[done], "rb") as file:
                text = file.read()
            if status != 0:
                raise RuntimeError(f"{session.items[numbers[done][0]].nodeid}: exit status {status} without a change")
            for number, seconds, passed, lines in json.loads(text):
                reach.seconds[number] = seconds
                if not passed:
                    reach.failing.add(number)
                for source, line in lines:
                    reach.tests.setdefault((source, line), set()).add(number)
        return reach

    def _leave_out_dependent(self, session: pytest.Session, reach: _Reach) -> None:
        """Run all tests in the order of a trial, without a change. A test that fails in this run depends on other
        tests, and would fail for every mutant."""
        tests = sorted(reach.seconds.keys() - reach.failing, key=lambda number: reach.seconds[number])
        with mmap.mmap(-1, len(session.items) or 1) as failed:

            def run() -> int:
                for number, following in zip(tests, [*tests[1:], None], strict=False):
                    failed[number] = not _passes(session, number, following)
                return 0

            for _, status in forks.run([forks.Fork(run, _FILE_SECONDS)], 1):
                if status != 0:
                    raise RuntimeError(f"exit status {status} without a change")
            reach.failing |= {number for number in tests if failed[number]}

    def _observe(self, session: pytest.Session, tests: Sequence[int], report: int) -> int:
        lines = LinesReached(self._sources.values())
        found = []
        for number, following in zip(tests, [*tests[1:], None], strict=True):
            lines.take()
            began = time.monotonic()
            passed = _passes(session, number, following)
            found.append((number, time.monotonic() - began, passed, lines.take()))
        os.write(report, json.dumps(found).encode())
        return 0


def _limit(reach: _Reach, tests: Sequence[int]) -> float:
    return _SURE * sum(reach.seconds[number] for number in tests) + _SECONDS


def _passes(session: pytest.Session, number: int, following: int | None) -> bool:
    """Run a test. Returns whether it passed. Fixtures that the next test does not need are torn down."""
    item = session.items[number]
    failed = session.testsfailed
    item.ihook.pytest_runtest_protocol(item=item, nextitem=None if following is None else session.items[following])
    return session.testsfailed == failed


@dataclass(frozen=True)
class _Trial:
    session: pytest.Session
    functions: Functions
    source: str
    tree: ast.Module
    mutant: Mutant
    tests: Sequence[int]

    def run(self, failed: mmap.mmap, place: int) -> int:
        """Run the tests. Returns the exit status, 0 if all tests pass. The number of the failing test, from 1, is written at
        `place`."""
        if not self.functions.exchange(self.source, self.mutant.tree(self.tree)):
            return _NOT_LOADED
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        for number, following in zip(self.tests, [*self.tests[1:], None], strict=False):
            try:
                if _passes(self.session, number, following):
                    continue
            except BaseException:  # pytest does not catch SystemExit and KeyboardInterrupt
                pass
            struct.pack_into("i", failed, place, number + 1)
            return 1
        return 0
