"""Runs the conformance suite for an installed driver in a process of its own, and describes the result."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import msgspec

from orlop_sdk import InvalidParameter, NotFound, Unavailable, discovery, entrypoints

from .new import KINDS
from .run import EXPIRED, Job, Line, read

__all__ = ["Result", "describe", "run", "which_kind"]

_NAMESPACES = ("--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--net", "--ipc", "--uts")
_PROGRAMS = {"unshare": "util-linux", "mount": "mount", "ip": "iproute2"}  # with their Debian packages
_GRACE = 20.0  # seconds in which the separate process kills the tests and removes cgroups after the time limit
_BUSYBOX = "/bin/busybox"


class Result(NamedTuple):
    """`lines` has the outcome of each test. `running` is the test that had not ended when the process ended, or "".
    `expired`: the time limit was reached. `output` is the end of the output of the process."""

    lines: list[Line]
    running: str
    expired: bool
    seconds: float
    status: int
    output: str

    @property
    def ok(self) -> bool:
        return self.status == 0 and any(line.outcome == "passed" for line in self.lines)


def which_kind(name: str, kind: str = "") -> str:
    """The kind of the installed driver `name`. Raises `NotFound`, or `InvalidParameter` if several drivers have the name."""
    found = [(each, key) for each in ([kind] if kind else KINDS) for key in discovery.installed(each)]
    kinds = [each for each, key in found if key == name]
    qualified = [key for _, key in found if key.endswith(f":{name}")]
    if qualified:
        raise InvalidParameter(f'several distributions have a driver "{name}": use one of {", ".join(qualified)}')
    if not kinds:
        what = f"{kind} driver" if kind else "driver"
        raise NotFound(f'cannot find {what} "{name}" in the environment of {sys.executable}. See: orlop driver list')
    if len(kinds) > 1:
        raise InvalidParameter(f'drivers of several kinds have the name "{name}": use --kind with one of {", ".join(kinds)}')
    return kinds[0]


def _require(kind: str) -> None:
    """Raise `Unavailable` if the suite cannot run on this machine. The message says what to do."""
    missing = [package for package in ("pytest", "trio") if find_spec(package) is None]
    if missing:
        raise Unavailable(
            f"cannot run the tests: {' and '.join(missing)} cannot be imported. Run: "
            f"{sys.executable} -m pip install 'orlop-sdk[testing]'"
        )
    if os.geteuid() != 0:
        if KINDS[kind].root:
            raise Unavailable(f"the tests of {kind} drivers need root. Run: sudo orlop driver check ...")
        return
    for program, package in _PROGRAMS.items():
        if shutil.which(program) is None:
            raise Unavailable(
                f"cannot run the tests: the program {program} is not installed (Debian: apt install {package})"
            )
    if kind == "runtime" and not os.path.exists(_BUSYBOX):
        raise Unavailable(f"cannot run the tests: {_BUSYBOX} does not exist (Debian: apt install busybox-static)")


def run(
    name: str,
    kind: str,
    *,
    options: Sequence[tuple[str, str]] = (),
    path: str = "",
    tests: str = "",
    directory: str = "",
    timeout: float = 120.0,
) -> Result:
    """Run the suite, or the test file `tests`. `directory` is where the driver stores files; by default it is a tmpfs for
    root, and a temporary directory for other users. No process of the tests remains, even if the driver hangs."""
    _require(kind)
    separate = os.geteuid() == 0
    with tempfile.TemporaryDirectory(prefix="odc-", dir=directory or None) as top:
        scratch, report = Path(top, "s"), Path(top, "report")
        scratch.mkdir()
        report.touch()
        if kind == "runtime" and not path:
            path = shutil.which(name.rpartition(":")[2]) or ""
        job = Job(
            kind, name, str(scratch), str(report), timeout, tuple(options), path, tests, separate, separate and not directory
        )
        argv = [sys.executable, "-m", "orlop_driver_tools.run", msgspec.json.encode(job).decode()]
        if separate:
            argv = ["unshare", *_NAMESPACES, *argv]
        began = time.monotonic()
        status, output, expired = _run_process(argv, Path(top, "output"), timeout + (_GRACE if separate else 0))
        return _result(read(report), status, output, expired, time.monotonic() - began)


def _run_process(argv: Sequence[str], output: Path, timeout: float) -> tuple[int, str, bool]:
    # The output goes to a file: a process that the driver leaves would keep a pipe open
    with output.open("wb") as file:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PYTEST_ADDOPTS": ""},
        )
        expired = False
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            expired = True
        finally:
            _end(process)
    expired = expired or process.returncode == EXPIRED
    return process.returncode, output.read_text(errors="replace")[-4000:], expired


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the processes of the session. As root, the end of the first process ends the pid namespace, and thus all other
    processes."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # all processes have ended
    process.wait()


def _result(report: Sequence[Line], status: int, output: str, expired: bool, seconds: float) -> Result:
    last: dict[str, Line] = {}
    running = ""
    for line in report:
        if line.outcome in ("started", "ended"):
            running = line.test if line.outcome == "started" else ""
        elif line.test not in last or last[line.test].outcome == "passed":
            last[line.test] = line  # a failure of the test is not replaced by a failure of its cleanup
    return Result(list(last.values()), running, expired, seconds, status, output)


def _words(test: str) -> str:
    """ "test_x.py::TestDriver::test_lines_arrive[down]" -> "lines arrive (down)"."""
    name = test.rpartition("::")[2] or test
    name, _, variant = name.partition("[")
    text = name.removeprefix("test_").replace("_", " ")
    return f"{text} ({variant.removesuffix(']')})" if variant else text


def _indented(text: str, limit: int) -> Iterator[str]:
    lines = text.strip().splitlines()
    for line in lines[:limit]:
        yield f"        {line.rstrip()}"
    if len(lines) > limit:
        yield "        ..."


def describe(result: Result, kind: str, name: str, *, verbose: bool = False) -> str:
    """The result in plain words: a line for each test, the causes of failures, and a summary."""
    distribution, version = _distribution(kind, name)
    text = [f"{kind} driver {name} ({distribution} {version})" if distribution else f"{kind} driver {name}"]
    for line in result.lines:
        if line.outcome == "broken":
            text += ["FAILED  the tests could not be loaded", *_indented(line.message, 8)]
        elif line.outcome == "skipped":
            text.append(f"skipped {_words(line.test)}: {line.message}")
        elif line.outcome == "failed":
            text += [f"FAILED  {_words(line.test)}"]
            text += _indented(line.details, 1000) if verbose else _indented(line.message, 8)
        else:
            text.append(f"passed  {_words(line.test)}")
    text += _end_of(result)
    counts = [
        (sum(line.outcome == outcome for line in result.lines), outcome) for outcome in ("passed", "failed", "skipped")
    ]
    summary = ", ".join(f"{count} {outcome}" for count, outcome in counts if count) or "no test ended"
    return "\n".join([*text, f"{summary}, in {result.seconds:.1f} seconds"])


def _end_of(result: Result) -> Iterator[str]:
    """Lines about a process that did not end in the normal way."""
    test = f" during: {_words(result.running)}" if result.running else ""
    if result.expired:
        yield f"FAILED  the tests did not end within the time limit, and were killed{test}"
    elif result.running or (result.status != 0 and not any(line.outcome in ("failed", "broken") for line in result.lines)):
        how = f"signal {-result.status}" if result.status < 0 else f"status {result.status}"
        yield f"FAILED  the process of the tests ended with {how}{test}"
        yield from _indented(re.sub(r"\n{2,}", "\n", result.output)[-1500:], 20)


def _distribution(kind: str, name: str) -> tuple[str, str]:
    wanted, _, plain = name.rpartition(":")
    for point in entrypoints.every():
        if (point.group, point.name) == (f"orlop.{kind}", plain):
            distribution, version = point.distribution()
            if not wanted or distribution == wanted:
                return distribution, version
    return "", ""
