"""Runs pytest in forked processes: pytest and the third-party packages are imported once, and the changed module is compiled
in memory, so that nothing on disk changes and several mutants run at a time.
"""

from __future__ import annotations

import ast
import importlib.abc
import importlib.machinery
import importlib.util
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import CodeType, FrameType, ModuleType

import pytest

from orlop_sdk import linux

__all__ = ["Coverage", "lines_reached", "passes", "source_of"]

_SURE = 4.0
"""A mutant that takes so many times as long as the tests take without it, and some seconds, hangs: it is killed."""
_SECONDS = 8.0
_MEMORY = 4 << 30
"""Bytes of address space of a run: a mutant may allocate without end."""

_MARKED = "not alone" if os.geteuid() == 0 else "not alone and not root"
"""The conformance suites of drivers need root."""


def source_of(module: str) -> str:
    """The path of a module's source. Imports nothing: a module that is imported here could not be changed after a fork."""
    package, *names = module.split(".")
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.submodule_search_locations
    return os.path.join(spec.submodule_search_locations[0], *names) + ".py"


class _Changed(importlib.abc.MetaPathFinder):
    """Finds one module with other code than that on disk."""

    def __init__(self, module: str, tree: ast.Module) -> None:
        self._module, self._tree = module, tree

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != self._module:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        assert spec is not None and spec.origin is not None
        spec.loader = _Loader(name, spec.origin, self._tree)
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, tree: ast.Module) -> None:
        super().__init__(name, path)
        self._tree = tree

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._tree, self.path, "exec")


def _confine(scratch: str) -> None:
    """Make everything but `scratch`, which becomes the directory of temporary files, read-only for this process: a mutant
    that runs as root may delete what its guard protected, up to the machine's own files."""
    linux.unshare(linux.CLONE_NEWNS)
    steps = [
        ("--make-rprivate", "/"),
        ("--bind", scratch, scratch),
        ("-o", "remount,bind,ro=recursive", "/"),
        ("-o", "remount,bind,rw", scratch),
        ("-o", "remount,bind,rw", "/proc"),
        *(("-t", "tmpfs", "tmpfs", path) for path in ("/run", "/dev/shm")),
    ]
    for step in steps:
        subprocess.run(["mount", *step], check=True)
    os.chdir(os.getcwd())  # the directory as it is now, read-only
    os.environ["TMPDIR"] = tempfile.tempdir = scratch


def _scratch() -> tempfile.TemporaryDirectory[str]:
    """Not below a directory that `_confine` covers. Its path is short, because sockets lie in it."""
    return tempfile.TemporaryDirectory(prefix="orlop-mutant-", dir="/var/tmp", ignore_cleanup_errors=True)


def _pytest(tests: Iterable[str], scratch: str) -> int:
    """The exit status of pytest, in a process of its own."""
    if os.geteuid() == 0:
        _confine(scratch)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.setsid()
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    options = ["-x", "-q", "-p", "no:cacheprovider", "-m", _MARKED, f"--basetemp={scratch}/run"]
    imported = "-Wignore::pytest.PytestAssertRewriteWarning"  # hypothesis, before the fork
    return int(pytest.main([*options, imported, *tests]))


def passes(module: str, tree: ast.Module, tests: Sequence[str], usual: float) -> bool:
    """Whether the tests pass with the changed module. A run that hangs does not pass."""
    with _scratch() as scratch:
        child = os.fork()
        if child == 0:
            code = 70
            try:
                sys.meta_path.insert(0, _Changed(module, tree))
                code = _pytest(tests, scratch)
            finally:
                os._exit(code)
        return _wait(child, _SURE * usual + _SECONDS) == 0


def _wait(child: int, seconds: float) -> int:
    deadline = time.monotonic() + seconds
    pause = 0.02
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
            break
        time.sleep(pause)
    _kill_group(child)
    return os.waitstatus_to_exitcode(status)


def _kill_group(leader: int) -> None:
    """End what the tests left running: a mutant may have kept them from doing it."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


@dataclass
class Coverage:
    """What one file of tests reaches: line numbers by source file; and how long it takes, in seconds."""

    lines: Mapping[str, frozenset[int]] = field(default_factory=dict)
    seconds: float = 0.0


def lines_reached(test_file: str, sources: Sequence[str]) -> Coverage:
    """Run a file of tests without a change. Raises `RuntimeError` if it fails."""
    with _scratch() as scratch:
        report = os.path.join(scratch, "lines")
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            code = 70
            try:
                reached = _watch_lines(frozenset(sources))
                code = _pytest([test_file], scratch)
                with open(report, "w") as file:
                    file.writelines(f"{path}:{line}\n" for path, lines in reached.items() for line in lines)
            finally:
                os._exit(code)
        if (code := _wait(child, 600)) not in (0, int(pytest.ExitCode.NO_TESTS_COLLECTED)):
            raise RuntimeError(f"{test_file} fails without any change (pytest: {code})")
        seconds = time.monotonic() - began
        found: dict[str, set[int]] = {}
        with open(report) as file:
            for entry in file:
                path, _, line = entry.rpartition(":")
                found.setdefault(path, set()).add(int(line))
        return Coverage({path: frozenset(lines) for path, lines in found.items()}, seconds)


def _watch_lines(sources: frozenset[str]) -> dict[str, set[int]]:
    reached: dict[str, set[int]] = {}

    def line(frame: FrameType, event: str, _: object) -> object:
        reached.setdefault(frame.f_code.co_filename, set()).add(frame.f_lineno)
        return line

    def call(frame: FrameType, event: str, _: object) -> object:
        if frame.f_code.co_filename not in sources:
            return None
        return line(frame, event, None)

    if sys.version_info < (3, 12):
        import threading

        threading.settrace(call)  # type: ignore[arg-type]
        sys.settrace(call)  # type: ignore[arg-type]
        return reached
    monitoring = sys.monitoring
    monitoring.use_tool_id(monitoring.COVERAGE_ID, "orlop-mutation")

    def seen(code: CodeType, number: int) -> object:
        if code.co_filename in sources:
            reached.setdefault(code.co_filename, set()).add(number)
        return monitoring.DISABLE

    monitoring.register_callback(monitoring.COVERAGE_ID, monitoring.events.LINE, seen)
    monitoring.set_events(monitoring.COVERAGE_ID, monitoring.events.LINE)
    return reached
