"""Startup time of the client: a CPU time budget, and modules that must not be imported to print a table."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

from orlop_cli.testing import RecordedDaemon, answer

BUDGET = 0.090  # seconds of user and system time for the whole `orlop ps`
RUNS = 9


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


def cpu_of(command: list[str], environment: dict[str, str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_ps_stays_within_its_cpu_budget(tmp_path: Path) -> None:
    """Takes the fastest of several runs, because other processes only add time. The limit is relative to the time of the
    bare interpreter, so that the test does not fail on a slow machine."""
    paths = [path for path in sys.path if (path and Path(path, "orlop_cli").is_dir()) or Path(path or ".", "click").is_dir()]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "DOCKER_CONFIG": str(tmp_path)}
    with RecordedDaemon(str(tmp_path / "d.sock")) as daemon:
        daemon.on("GET", "/containers/json", answer(containers(50)))
        command = [sys.executable, "-m", "orlop_cli", "-H", daemon.host, "ps"]
        cpu_of(command, environment)  # the first run writes the byte code
        best = min(cpu_of(command, environment) for _ in range(RUNS))
        bare = min(cpu_of([sys.executable, "-c", "pass"], environment) for _ in range(RUNS))
    usual = 0.025
    assert best < BUDGET * max(1.0, bare / usual), f"ps took {best * 1000:.0f} ms of CPU, bare Python {bare * 1000:.0f}"


def test_ps_imports_nothing_it_does_not_need(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from orlop_cli.__main__ import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "except SystemExit:\n    pass\n"
        "print(*sorted(sys.modules), file=sys.stderr)\n"
    )
    with RecordedDaemon(str(tmp_path / "d.sock")) as daemon:
        daemon.on("GET", "/containers/json", answer(containers(1)))
        done = subprocess.run(
            [sys.executable, "-c", script, "-H", daemon.host, "ps"], capture_output=True, text=True, check=True
        )
    loaded = set(done.stderr.split())
    assert "orlop_cli.commands.ps" in loaded
    heavy = {
        "rich",
        "http.client",
        "urllib.parse",
        "ssl",
        "subprocess",
        "importlib.metadata",
        "decimal",
        "orlop_cli.tables.template",
    }
    assert not heavy & loaded
    assert {name for name in loaded if name.startswith("orlop_cli.commands.")} == {"orlop_cli.commands.ps"}
    assert not {name for name in loaded if name.startswith("orlop_cli.create")}
