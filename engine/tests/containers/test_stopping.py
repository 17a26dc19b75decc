"""Stop and kill: paused containers, monitors that do not answer, and containers that are just starting or ending."""

import pytest
import trio
from engine_fixture import engine_fixture, run_fast
from trio.testing import wait_all_tasks_blocked

from orlop_engine.containers.state import Phase
from orlop_engine.types.containers import RestartPolicy
from orlop_monitor.protocol import Exited
from orlop_sdk import Conflict, DriverError, Unavailable


def record_signals(h, into):
    """Make the monitor record signals. SIGKILL ends the container."""
    monitor = h.run.monitor

    async def signal(signum):
        await trio.lowlevel.checkpoint()
        into.append(signum)
        if signum == 9:
            monitor.exit(137)

    monitor.signal = signal


# --- paused containers: a frozen process does not handle a signal, or die (cgroup v1) ---------------------------------


@pytest.mark.parametrize(
    ("operation", "order"),
    [
        ("stop", ["pause", "unpause", 15, 9]),
        ("kill", ["pause", 9, "unpause"]),
        ("rm", ["pause", "unpause", 9]),
        ("TERM", ["pause", 15, "unpause"]),
        ("HUP", ["pause", 1]),
    ],
)
def test_paused_container_is_resumed_so_that_a_fatal_signal_can_end_it(tmp_path, monkeypatch, runtime, operation, order):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            h.container.record.config.stop_signal = "TERM"
            await h.containers.start(h.container)
            await h.containers.pause(h.container)
            record_signals(h, runtime)
            if operation == "stop":
                await h.containers.stop(h.container, "", 1)
            elif operation == "rm":
                await h.containers.remove(h.container, True, False)
            else:
                await h.containers.kill(h.container, "" if operation == "kill" else operation)
            assert runtime == order and h.container.record.state.paused == (operation == "HUP")

    run_fast(main)


def test_failed_resume_does_not_prevent_a_kill(tmp_path, monkeypatch, runtime, caplog):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)
            await h.containers.pause(h.container)
            runtime.fails = ("unpause",)
            await h.containers.stop(h.container, "", 1)
            assert h.container.record.state.phase is Phase.EXITED and "cannot unpause" in caplog.text

    run_fast(main)


# --- stop -----------------------------------------------------------------------------------------------------------


def test_stop_with_timeout_zero_kills_the_container_at_once(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)
            began = trio.current_time()
            await h.containers.stop(h.container, "", 0)
            assert trio.current_time() == began and h.container.record.state.exit_code == 137

    run_fast(main)


def test_monitor_that_does_not_answer_is_killed(tmp_path, monkeypatch, runtime):
    """The zygote then kills the container through its cgroup."""

    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)
            run = h.run
            run.monitor.deaf = True
            await h.containers.stop(h.container, "", 1)
            assert run.monitor.gone.is_set() and run.finished.is_set()
            assert h.container.record.state.exit_code == 255

    run_fast(main)


def test_stop_fails_if_the_container_survives_sigkill(tmp_path, monkeypatch, runtime):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)
            h.run.monitor.deaf, h.run.monitor.kill = True, lambda: None
            with pytest.raises(DriverError, match=r"cannot kill container: .* did not end within 30 s of SIGKILL"):
                await h.containers.stop(h.container, "", 1)
            assert h.container.record.state.running

    run_fast(main)


# --- kill -----------------------------------------------------------------------------------------------------------


def test_kill_waits_until_the_starting_daemon_has_started_the_container(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h, trio.open_nursery() as nursery:
            h.container.owed_start = tried = trio.Event()
            nursery.start_soon(h.containers.kill, h.container, "")
            await trio.sleep(1)
            await h.containers.start(h.container)
            tried.set()
        assert h.container.record.state.exit_code == 137

    run_fast(main)


def test_kill_fails_if_the_monitor_cannot_send_the_signal(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)

            async def fail(signum):
                raise Unavailable("its monitor is busy")

            h.run.monitor.signal = fail
            with pytest.raises(Unavailable, match="its monitor is busy"):
                await h.containers.kill(h.container, "HUP")
            assert h.engine.actions() == ["start"]

    run_fast(main)


def test_kill_of_a_container_that_exits_meanwhile_fails_with_not_running(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)

            async def end(signum):
                h.run.monitor.exit(0)
                raise DriverError("no such process")

            h.run.monitor.signal = end
            with pytest.raises(Conflict, match="is not running"):
                await h.containers.kill(h.container, "HUP")

    run_fast(main)


def test_kill_while_the_monitor_cleans_up_is_refused(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)
            h.run.exited.set(Exited(0, 1))  # the monitor still runs
            await h.run.finished.wait()
            with pytest.raises(Conflict, match="is not running"):
                await h.containers.kill(h.container, "")
            assert h.engine.actions() == ["start", "die"]

    run_fast(main)


def test_kill_during_a_restart_that_hangs_is_refused(tmp_path, monkeypatch):
    """No process exists yet to which a signal could be sent."""

    async def main():
        async with engine_fixture(tmp_path, monkeypatch, restart_policy=RestartPolicy(name="always")) as h:
            await h.containers.start(h.container)
            h.launching = trio.Event()
            h.run.monitor.exit(1)
            await trio.sleep(1)
            assert h.container.run.monitor is None and h.container.record.state.restarting
            with pytest.raises(Conflict, match="is not running"):
                await h.containers.kill(h.container, "HUP")
            await wait_all_tasks_blocked()
            assert h.engine.actions() == ["start", "die"]

    run_fast(main)
