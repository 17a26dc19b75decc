"""`orlop driver check` and `list` with drivers that fail, hang, end the process, or cannot be loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from orlop_driver_tools.new import project

Orlop = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def orlop(tmp_path: Path) -> Orlop:
    (tmp_path / "tmp").mkdir()

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "orlop_cli", "driver", *words]
        env = {**os.environ, "PYTHONPATH": str(tmp_path), "TMPDIR": str(tmp_path / "tmp")}
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=150, check=False)
        assert os.listdir(tmp_path / "tmp") == []
        return done

    return run


def install(site: Path, kind: str, name: str, *changes: tuple[str, str], distribution: str = "") -> None:
    """Install the driver of the template, with changes of its text."""
    made = project(kind, name)
    text = made.files[f"{made.module}.py"]
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    module = f"{made.module}{distribution}"
    (site / f"{module}.py").write_text(text)
    info = site / f"{module}-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution or made.distribution}\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(f"[orlop.{kind}]\n{name} = {module}\n")


def test_driver_check_shows_failed_tests_as_sentences(orlop: Orlop, tmp_path: Path) -> None:
    install(tmp_path, "volume", "faulty", ("_trash.take, self._path(name))", "_path, name)"))
    done = orlop("check", "faulty")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0] == "volume driver faulty (orlop-volume-faulty 0.1.0)"
    at = lines.index("FAILED  volume is created and removed")
    assert "remove(): the name is gone at once" in lines[at + 1]
    assert "passed  unknown and invalid names are refused" in lines
    assert " passed, " in lines[-1] and " failed, in " in lines[-1]
    assert "Traceback" not in done.stdout


def expire(orlop: Orlop, name: str, test: str, *words: str) -> str:
    """The output of a check that reaches its time limit during `test`. A slow machine needs a longer limit."""
    for limit in ("6", "25", "90"):
        done = orlop("check", name, *words, "--timeout", limit)
        assert done.returncode == 1
        if f"did not end within the time limit, and were killed during: {test}" in done.stdout:
            break
    else:
        pytest.fail(done.stdout + done.stderr)
    return done.stdout


def test_hanging_driver_is_killed_at_the_time_limit(orlop: Orlop, tmp_path: Path) -> None:
    scan = "\n        with os.scandir(self._root) as entries:"
    install(tmp_path, "volume", "hangs", (scan, f"\n        import time; time.sleep(1000){scan}"))
    assert "passed  is a volume driver" in expire(orlop, "hangs", "volume is created and removed")


def test_driver_check_reports_a_driver_that_exits_the_process(orlop: Orlop, tmp_path: Path) -> None:
    install(tmp_path, "volume", "exits", ("        os.chmod(path", "        os._exit(7)\n        os.chmod(path"))
    done = orlop("check", "exits")
    assert done.returncode == 1
    assert "FAILED  the process of the tests ended with status 7 during: volume is created and removed" in done.stdout


def test_driver_check_reports_a_driver_that_cannot_be_loaded(orlop: Orlop, tmp_path: Path) -> None:
    install(tmp_path, "log", "broken", ("import os\n", "import os\nimport nosuchmodule\n"))
    done = orlop("check", "broken")
    assert done.returncode == 1
    assert "FAILED  the tests could not be loaded" in done.stdout
    assert "cannot load log driver \"broken\": ModuleNotFoundError: No module named 'nosuchmodule'" in done.stdout
    listed = orlop("list")
    assert listed.returncode == 0
    assert any(line.startswith("log") and "No module named 'nosuchmodule'" in line for line in listed.stdout.splitlines())


def test_drivers_with_the_same_name_are_distinguished_by_their_distributions(orlop: Orlop, tmp_path: Path) -> None:
    install(tmp_path, "log", "twin")
    install(tmp_path, "log", "twin", distribution="other")
    rows = [line.split() for line in orlop("list").stdout.splitlines()]
    assert ["log", "orlop-log-twin:twin", "orlop-log-twin", "0.1.0", "ok"] in rows
    assert ["log", "other:twin", "other", "0.1.0", "ok"] in rows
    done = orlop("check", "twin")
    assert done.returncode == 1
    assert 'several distributions have a driver "twin": use one of orlop-log-twin:twin, other:twin' in done.stderr
    done = orlop("check", "other:twin")
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith("log driver other:twin (other 0.1.0)\n")


def test_driver_check_refuses_invalid_options_and_names_before_any_test_runs(orlop: Orlop) -> None:
    for words, message in (
        (("nosuch",), 'cannot find driver "nosuch"'),
        (("local",), "use --kind with one of log, volume"),
        (("vfs", "-o", "colour"), "invalid option colour: NAME=VALUE is needed"),
        (("vfs", "--tests", "/nonexistent"), "cannot run /nonexistent: no such file"),
        (("vfs", "--directory", "/nonexistent"), "cannot use /nonexistent: no such directory"),
    ):
        done = orlop("check", *words)
        assert done.returncode == 1
        assert message in done.stderr


@pytest.mark.root
def test_tasks_and_cgroups_of_a_hanging_runtime_are_removed(orlop: Orlop, tmp_path: Path) -> None:
    """The driver records the id of each task that it should delete. The id is the name of the task's cgroup."""
    delete = 'return self._command("delete", "--force", task.id)'
    hang = f'return Command(("sh", "-c", "echo $0 >>{tmp_path}/ids; sleep 1000", task.id), env=_ENV)'
    install(tmp_path, "runtime", "hangs", (delete, hang))
    expire(orlop, "hangs", "task inherits standard streams", "--path", "/usr/sbin/runc")
    ids = (tmp_path / "ids").read_text().split()
    assert ids
    assert not [path for path in Path("/sys/fs/cgroup").glob("**/orlop-suite-*") if path.name in ids]


@pytest.mark.root
def test_driver_check_runs_the_driver_in_new_namespaces(orlop: Orlop, tmp_path: Path) -> None:
    kinds = ("mnt", "net", "pid", "ipc", "uts")
    record = (
        f"Path({str(tmp_path / 'seen')!r}).write_text(' '.join(os.readlink(f'/proc/self/ns/{{each}}') for each in {kinds}))"
    )
    change = ("        os.chmod(path", f"        from pathlib import Path\n        {record}\n        os.chmod(path")
    install(tmp_path, "volume", "looks", change)
    assert orlop("check", "looks").returncode == 0
    seen = (tmp_path / "seen").read_text().split()
    assert len(seen) == len(kinds)
    assert not set(seen) & {os.readlink(f"/proc/self/ns/{kind}") for kind in kinds}
