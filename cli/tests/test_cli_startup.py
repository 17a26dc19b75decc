"""Start time of the client: a CPU time budget, and modules that frequent commands must not import."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import orlop_cli
from orlop_cli.testing import UPGRADED, RecordedDaemon, answer, chunked, frame

BUDGET = 0.040  # seconds of user and system time for the whole command, with a bare Python of USUAL; 0.016 without load
USUAL = 0.012
RUNS = 9
ID = "ab" * 32
COMMANDS = {
    "ps": ["ps", "-a", "--no-trunc"],
    "version": ["version"],
    "inspect": ["inspect", "web"],
    "logs": ["logs", "--tail", "10", "web"],
    "exec": ["exec", "-e", "A=1", "web", "true"],
}
HEAVY = {
    *("ast", "click", "collections", "contextlib", "datetime", "enum", "functools", "inspect", "json", "re", "rich"),
    *("socket", "ssl", "subprocess", "threading", "typing", "importlib.metadata", "orlop_cli.tables.template"),
}
"""Modules that take more than half a millisecond to import."""


def containers(number: int) -> list[dict[str, object]]:
    return [
        {
            "Id": f"{index:064x}",
            "Names": [f"/c{index}"],
            "Image": "busybox",
            "Command": "sleep 1000",
            "Created": 1_700_000_000,
            "Ports": [{"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8000 + index, "Type": "tcp"}],
            "State": "running",
            "Status": "Up 2 hours",
        }
        for index in range(number)
    ]


@pytest.fixture
def serving(daemon: RecordedDaemon) -> RecordedDaemon:
    daemon.on("GET", "/containers/json", answer(containers(50)))
    daemon.on("GET", "/containers/web/json", answer({"Id": ID, "Config": {"Tty": False}, "State": {"Running": True}}))
    daemon.on("GET", "/version", answer({"Version": "1", "ApiVersion": "1.55", "Os": "linux", "Arch": "amd64"}))
    multiplexed = {"Content-Type": "application/vnd.docker.multiplexed-stream"}
    daemon.on("GET", "/containers/web/logs", chunked([frame(1, b"said\n")], multiplexed))
    daemon.on("POST", "/containers/web/exec", answer({"Id": ID}, 201))
    daemon.on("POST", f"/exec/{ID}/start", lambda connection, _: connection.sendall(UPGRADED + frame(1, b"done\n")))
    daemon.on("GET", f"/exec/{ID}/json", answer({"ExitCode": 0}))
    return daemon


def cpu_of(command: list[str], environment: dict[str, str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("name", COMMANDS)
def test_command_stays_within_its_cpu_budget(name: str, serving: RecordedDaemon, tmp_path: Path) -> None:
    """Compares the best of several runs, because other processes only add time. The time of the bare interpreter is
    subtracted, so that the test does not fail on a slow machine."""
    environment = {**os.environ, "PYTHONPATH": str(Path(orlop_cli.__file__).parents[1]), "DOCKER_CONFIG": str(tmp_path)}
    command = [sys.executable, "-m", "orlop_cli", "-H", serving.host, *COMMANDS[name]]
    cpu_of(command, environment)  # writes the byte code
    best = min(cpu_of(command, environment) for _ in range(RUNS))
    bare = min(cpu_of([sys.executable, "-c", "pass"], environment) for _ in range(RUNS))
    limit = BUDGET * max(1.0, bare / USUAL)
    assert best < limit, f"{name} took {best * 1000:.0f} ms of CPU, bare Python {bare * 1000:.0f}"


@pytest.mark.parametrize("name", COMMANDS)
def test_command_imports_no_unneeded_modules(name: str, serving: RecordedDaemon) -> None:
    script = (
        "import sys\n"
        f"sys.path.insert(0, {str(Path(orlop_cli.__file__).parents[1])!r})\n"
        "from orlop_cli.__main__ import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "except SystemExit:\n    pass\n"
        "print(*sorted(sys.modules), file=sys.stderr)\n"
    )
    command = [sys.executable, "-SI", "-c", script, "-H", serving.host, *COMMANDS[name]]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout
    loaded = set(done.stderr.split())
    assert not HEAVY & loaded
    module = {"exec": "exec_"}.get(name, name)
    assert {each for each in loaded if each.startswith("orlop_cli.commands.")} == {f"orlop_cli.commands.{module}"}
