"""The event loop's watchdog: the times that it counts, its reports, and the conditions under which it is installed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import trio

from orlop_kernel.boot import watchdog
from orlop_kernel.boot.watchdog import VARIABLE, Blocked, LoopWatchdog, follow, log_blocked

unwatched: Any = getattr(trio.run, "__wrapped__", trio.run)  # type: ignore[attr-defined]  # without conftest.py's watchdog, which fails tests


class Clocks:
    """Fake clock and scheduler statistics."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.waited = 1.0, 0
        monkeypatch.setattr(watchdog.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(LoopWatchdog, "_run_queue_wait", lambda _: self.waited)

    def step(self, dog: LoopWatchdog, seconds: float, waited: float = 0.0) -> None:
        task: Any = type("Task", (), {"name": "a task"})
        dog.before_task_step(task)
        self.now += seconds
        self.waited += int(waited * 1e9)
        dog.after_task_step(task)


@pytest.fixture
def blocked() -> list[Blocked]:
    return []


@pytest.fixture
def dog(blocked: list[Blocked]) -> Any:
    made = LoopWatchdog(blocked.append, 0.1)
    yield made
    made.close()


def test_time_in_which_a_task_waits_for_a_processor_does_not_count_as_blocking(
    monkeypatch: pytest.MonkeyPatch, dog: LoopWatchdog, blocked: list[Blocked]
) -> None:
    clocks = Clocks(monkeypatch)
    clocks.step(dog, 0.09)
    clocks.step(dog, 0.30, waited=0.25)
    assert not blocked
    clocks.step(dog, 0.40, waited=0.25)
    (found,) = blocked
    assert (found.task, round(found.seconds, 3)) == ("a task", 0.15)


def test_task_step_that_adds_the_watchdog_does_not_count_as_blocking(dog: LoopWatchdog, blocked: list[Blocked]) -> None:
    task: Any = None
    dog.after_task_step(task)
    assert not blocked


def test_report_contains_the_source_line_that_blocked_the_loop(dog: LoopWatchdog, blocked: list[Blocked]) -> None:
    def slow() -> None:
        end = time.thread_time() + 0.3  # processor time, so that the sampler's thread runs even on a busy machine
        while time.thread_time() < end:
            pass

    async def main() -> None:
        await trio.lowlevel.checkpoint()
        slow()

    unwatched(main, instruments=[dog])
    (found,) = blocked
    assert found.task.endswith("main")
    assert found.seconds > 0.25
    assert found.frames.startswith("slow (tests/test_watchdog.py:")
    assert "< main (tests/test_watchdog.py:" in found.frames
    assert "unrolled_run" not in found.frames
    assert not found.disk


def test_option_debug_or_an_environment_variable_enables_the_watchdog() -> None:
    def installed() -> list[LoopWatchdog]:
        every = trio._core._run.GLOBAL_RUN_CONTEXT.runner.instruments["_all"]  # type: ignore[attr-defined]
        return [one for one in every if isinstance(one, LoopWatchdog)]

    async def main() -> None:
        assert follow(None, False, {}) is None
        assert follow(None, False, {VARIABLE: "soon"}) is None
        by_debug = follow(None, True, {})
        assert by_debug is not None
        assert installed() == [by_debug]
        assert follow(by_debug, True, {}) is by_debug
        assert follow(by_debug, False, {}) is None
        assert installed() == []
        by_environment = follow(None, False, {VARIABLE: "250"})
        assert by_environment is not None
        by_environment.close()

    unwatched(main)


def test_log_message_describes_the_blocked_loop(caplog: pytest.LogCaptureFixture) -> None:
    log_blocked(Blocked("a task", 0.1324, "slow (a/b.py:1)"))
    log_blocked(Blocked("a task", 0.1324, "fsync (a/b.py:1)", disk=True))
    log_blocked(Blocked("a task", 0.1324))
    assert [record.getMessage() for record in caplog.records] == [
        "event loop blocked for 132 ms by task a task: slow (a/b.py:1)",
        "event loop blocked for 132 ms by task a task, waiting for the disk: fsync (a/b.py:1)",
        "event loop blocked for 132 ms by task a task",
    ]


def run_pytest(directory: Path, test: str) -> subprocess.CompletedProcess[str]:
    """Run one test with this suite's plugin (conftest.py at the root) in a subprocess."""
    file = directory / "test_it.py"
    file.write_text(test)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "conftest", str(file), "--rootdir", str(directory)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(command, cwd=directory, env=env, capture_output=True, text=True, check=False)


def test_a_test_that_blocks_its_loop_in_both_runs_fails(tmp_path: Path) -> None:
    text = "import time, trio\n\ndef test_it():\n    async def main(): time.sleep(0.6)\n    trio.run(main)\n"
    done = run_pytest(tmp_path, text)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "event loop blocked for 6" in done.stdout
    assert "main (test_a_test_that_blocks_its_lo0/test_it.py:4)" in done.stdout


def test_a_test_that_blocks_its_loop_only_in_the_first_run_passes_and_is_reported(tmp_path: Path) -> None:
    text = (
        "import time, trio\nnext_one = iter((0.6, 0))\n\n"
        "def test_it():\n    async def main(): time.sleep(next(next_one))\n    trio.run(main)\n"
    )
    done = run_pytest(tmp_path, text)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    assert "tests run a second time" in done.stdout
    assert "event loop blocked for 6" in done.stdout


def test_a_test_that_fails_for_another_reason_is_not_run_again(tmp_path: Path) -> None:
    text = "next_one = iter((False, True))\n\ndef test_it():\n    assert next(next_one)\n"
    assert run_pytest(tmp_path, text).returncode == 1
