"""The process of `orlop driver check` that runs the suite: `python -m orlop_driver_tools.run`, with a `Job` in JSON as its
argument. It writes a line of JSON to the job's report at the start and at the end of each test, so that the report is useful
even if the driver ends or blocks the process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import msgspec

from orlop_sdk import cgroups

__all__ = ["EXPIRED", "Job", "Line", "read"]

EXPIRED = 124
"""Exit code of the process if the time limit was reached, as of timeout(1)."""
_TEST = """from orlop_driver_tools.testing import suite

TestDriver = suite({kind!r}, {name!r}, {options!r}, {path!r})
"""


class Job(msgspec.Struct, frozen=True):
    """`scratch` is an empty directory for the files of the tests. `tmpfs`: mount a tmpfs there. `separate`: the
    process is the first one in new namespaces. `tests` is a test file that runs instead of the suite ("" for the suite)."""

    kind: str
    name: str
    scratch: str
    report: str
    timeout: float
    options: tuple[tuple[str, str], ...] = ()
    path: str = ""
    tests: str = ""
    separate: bool = False
    tmpfs: bool = False


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of the report. `outcome` is passed, failed, skipped, or broken (the tests could not be loaded); started and
    ended enclose the setup, the test and its cleanup.
    `message` is short; `details` is the whole text of a failure."""

    test: str
    outcome: str
    message: str = ""
    details: str = ""


class _Recorder:
    """A plugin of pytest that writes the report."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def _write(self, line: Line) -> None:
        self._file.write(msgspec.json.encode(line) + b"\n")
        self._file.flush()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._write(Line(nodeid, "started"))

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._write(Line(nodeid, "ended"))

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self._write(Line(report.nodeid, "failed", _cause(report), report.longreprtext))
        elif report.skipped:
            self._write(Line(report.nodeid, "skipped", str(report.longrepr[2]).removeprefix("Skipped: ")))
        elif report.when == "call":
            self._write(Line(report.nodeid, "passed"))

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            text = report.longreprtext.strip()
            self._write(Line(report.nodeid, "broken", text.splitlines()[-1].removeprefix("E").strip(), text))


def _cause(report: Any) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message) if crash else str(report.longreprtext)


def read(report: Path) -> list[Line]:
    """The lines of a report. An incomplete last line is ignored."""
    lines = report.read_bytes().split(b"\n")[:-1]
    return [msgspec.json.decode(line, type=Line) for line in lines]


class _Expired(Exception):
    pass


def _expire(*_: object) -> None:
    raise _Expired


def _main(job: Job) -> int:
    if not job.separate:
        return _run(job)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)  # tests of log drivers connect to 127.0.0.1
    if job.tmpfs:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", job.scratch], check=True)
    if child := os.fork():
        return _supervise(child, job)
    os._exit(_run(job))


def _supervise(child: int, job: Job) -> int:
    """Wait until the child has ended or the time is over. Then kill all processes of the pid namespace, and remove the
    cgroups of tasks. Returns the exit code of the child, or EXPIRED."""
    signal.signal(signal.SIGALRM, _expire)
    signal.setitimer(signal.ITIMER_REAL, job.timeout)
    try:
        code = _reap(child)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except _Expired:
        code = EXPIRED
    with suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)  # this is the first process of the namespace, so no other process of the host is killed
    with suppress(ChildProcessError):
        while True:
            os.wait()
    for spec in Path(job.scratch).glob("t/*/b*/config.json"):
        with suppress(OSError, ValueError, KeyError):  # a damaged file of a test must not keep the other cgroups
            cgroups.remove(cgroups.named(json.loads(spec.read_bytes())["linux"]["cgroupsPath"]))
    return code


def _reap(child: int) -> int:
    """The exit code of the child. The kernel makes the first process of a pid namespace the parent of orphans. Without
    `wait`, an ended task of a runtime would stay as a zombie, and its cgroup could not be removed."""
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _run(job: Job) -> int:
    import pytest

    os.chdir(job.scratch)
    tests = job.tests
    if not tests:
        tests = os.path.join(job.scratch, "test_conformance.py")
        text = _TEST.format(kind=job.kind, name=job.name, options=job.options, path=job.path)
        Path(tests).write_text(text)
    with open(job.report, "ab") as file:
        arguments = ["-q", "-p", "no:cacheprovider", "--import-mode=importlib", f"--basetemp={job.scratch}/t", tests]
        return int(pytest.main(arguments, plugins=[_Recorder(file)]))


if __name__ == "__main__":
    sys.exit(_main(msgspec.json.decode(sys.argv[1], type=Job)))
