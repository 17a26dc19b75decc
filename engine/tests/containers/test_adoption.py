"""Containers when the daemon starts: if the monitor lives, the container is adopted; otherwise its exit is recorded."""

import os
import subprocess
from types import SimpleNamespace

import pytest
import trio
from engine_fixture import ID, SANDBOX, FakeMonitor, engine_fixture, no_threads, run_fast
from trio.testing import wait_all_tasks_blocked

from orlop_engine.containers import adoption, connections, restore
from orlop_engine.containers.container import Run
from orlop_engine.containers.record import decode
from orlop_engine.containers.state import Phase, State
from orlop_engine.processes import runs
from orlop_engine.processes.monitor_client import MonitorClient
from orlop_engine.types.containers import Healthcheck, RestartPolicy
from orlop_monitor import records
from orlop_monitor.protocol import ExitRecord, InitRecord, MonitorRecord, Status
from orlop_sdk import Conflict, Unavailable, linux

RUNNING = State(Phase.RUNNING, pid=99, pid_start_time=1, started_ns=7)
ENDED = State(Phase.EXITED, exit_code=3, started_ns=7, finished_ns=9)


class Monitor(FakeMonitor):
    """A monitor of the last daemon. It reports `phase`. If it is killed, an exit record exists, as from the zygote."""

    phase = "running"

    @property
    def is_over(self):
        return self.gone.is_set()

    async def subscribe(self):
        await trio.lowlevel.checkpoint()
        return Status(self.phase, self.pid, 99)

    def kill(self):
        records.write(self.run.run_dir, ExitRecord(137, 10**9, error="its zygote did"))
        super().kill()


class Left:
    """What the last daemon left of the container. `monitor` is None if the monitor is dead. `asked` contains the requested
    cleanups. `commits` is the number of writes of the row."""

    def __init__(self, h, monkeypatch):
        self.h, self.asked, self.commits = h, [], 0
        self.run_dir = h.paths.run_dir(ID)
        os.makedirs(self.run_dir)
        self.monitor = Monitor(Run(self.run_dir))
        no_threads(monkeypatch)
        monkeypatch.setattr(MonitorClient, "adopt", self._adopt)
        monkeypatch.setattr(runs, "kill_cgroups", lambda init: self.asked.append(f"kill {init.pid}"))
        monkeypatch.setattr(runs, "complete", self._complete)
        commit = h.engine.store.commit

        async def count(operations):
            self.commits += 1
            await commit(operations)

        h.engine.store.commit = count

    async def _adopt(self, *of):
        return self.monitor

    def _complete(self, run_dir, key, status, cgroup):
        self.asked.append("complete")
        self.write(InitRecord(status.pid, 1, 5), MonitorRecord(status.monitor_pid, 1, key))

    def write(self, *given):
        for record in given:
            records.write(self.run_dir, record)

    @property
    def row(self):
        return decode(self.h.engine.store.rows[ID])


MONITOR = MonitorRecord(FakeMonitor.pid, 1, ID)


def boot(tmp_path, monkeypatch, test, state, *written, monitor=True, **fields):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            left = Left(h, monkeypatch)
            left.write(*written)
            if not monitor:
                left.monitor = None
            with h.container.publish() as draft:
                draft.state, draft.monitor_pid, draft.started_before = state, FakeMonitor.pid, state.started_ns > 0
                for name, value in fields.items():
                    setattr(draft, name, value)
            await restore.restore(h.ports)
            await wait_all_tasks_blocked()
            await test(h, left)

    run_fast(main)


# --- with a living monitor --------------------------------------------------------------------------------------------


def test_container_whose_start_was_not_recorded_is_recorded_as_running_at_daemon_start(tmp_path, monkeypatch):
    """The last daemon died after the start, before the pid was in the row."""

    async def test(h, left):
        assert (left.row.state.phase, left.row.state.pid, left.row.started_before) == (Phase.RUNNING, 99, True)
        assert left.asked == []

    boot(tmp_path, monkeypatch, test, State(), InitRecord(99, 1, 5), MONITOR)


def test_adoption_writes_no_row_if_the_row_is_correct(tmp_path, monkeypatch):
    async def test(h, left):
        assert h.container.record.state == RUNNING and h.container.run.settled.is_set() and left.commits == 0

    boot(tmp_path, monkeypatch, test, RUNNING, InitRecord(99, 1, 5), MONITOR)


def test_adopted_container_is_recorded_as_running_once_the_disk_has_space(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            left = Left(h, monkeypatch)
            left.write(InitRecord(99, 1, 5), MONITOR)
            h.container.record.monitor_pid = FakeMonitor.pid
            h.engine.store.full = True
            await restore.restore(h.ports)
            await trio.sleep(3)
            assert h.container.record.state.running and h.engine.store.rows[ID] == b"created"
            h.engine.store.full = False
            await trio.sleep(3)
            assert left.row.state.running

    run_fast(main)


def test_container_whose_pause_was_not_recorded_is_recorded_as_paused_at_daemon_start(tmp_path, monkeypatch):
    (tmp_path / "cgroup").mkdir()
    (tmp_path / "cgroup" / "cgroup.freeze").write_text("1\n")

    async def test(h, left):
        assert left.row.state.phase is Phase.PAUSED

    boot(tmp_path, monkeypatch, test, RUNNING, InitRecord(99, 1, 5, (str(tmp_path / "cgroup"),)), MONITOR)


@pytest.mark.parametrize("written", [(), (InitRecord(99, 1, 5),), (MONITOR,)], ids=["none", "init", "monitor"])
def test_missing_record_files_of_a_running_container_are_written_again(tmp_path, monkeypatch, written):
    """The next daemon and the zygote need these records."""

    async def test(h, left):
        assert left.asked == ["complete"] and h.container.run.settled.is_set()
        assert (h.container.record.state.phase, h.container.record.state.pid) == (Phase.RUNNING, 99)

    boot(tmp_path, monkeypatch, test, State(), *written)


def test_health_checks_continue_after_an_adoption(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            Left(h, monkeypatch).write(InitRecord(99, 1, 5), MONITOR)
            h.container.record.monitor_pid = FakeMonitor.pid
            h.container.record.config.healthcheck = Healthcheck(test=["CMD", "true"])
            await restore.restore(h.ports)
            await wait_all_tasks_blocked()
            assert h.container.health is not None

    run_fast(main)


@pytest.mark.parametrize("endpoints", [0, 1, 2])
def test_adopted_container_on_several_networks_keeps_its_gateway(tmp_path, monkeypatch, endpoints):
    kept = []

    async def keep(networks, container):
        kept.append(container.id)

    async def test(h, left):
        assert kept == ([ID] if endpoints == 2 else [])

    monkeypatch.setattr(connections, "keep_gateway", keep)
    sandbox = SimpleNamespace(endpoints=("e",) * endpoints) if endpoints else None
    boot(tmp_path, monkeypatch, test, RUNNING, InitRecord(99, 1, 5), MONITOR, sandbox=sandbox)


def test_monitor_that_has_not_started_its_container_is_killed(tmp_path, monkeypatch):
    """The row says that the container runs, so the row is damaged or belongs to another run."""

    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            left = Left(h, monkeypatch)
            left.monitor.phase = "launched"
            left.write(MONITOR)
            with h.container.publish() as draft:
                draft.state, draft.monitor_pid, draft.started_before = RUNNING, FakeMonitor.pid, True
            await restore.restore(h.ports)
            await trio.sleep(10)
            assert left.monitor.gone.is_set()
            assert (left.row.state.phase, left.row.state.exit_code) == (Phase.EXITED, 137)

    run_fast(main)


# --- an exit that the last daemon has recorded -------------------------------------------------------------------------


def test_container_with_a_recorded_exit_is_cleaned_up_when_its_monitor_ends(tmp_path, monkeypatch):
    async def test(h, left):
        assert h.container.record.state == ENDED and h.container.run is not None and not h.engine.actions()
        began = trio.current_time()
        with pytest.raises(Conflict, match="is not running"):
            await h.containers.kill(h.container, "")
        assert trio.current_time() == began, "nothing is waited for"
        left.monitor.gone.set()
        await wait_all_tasks_blocked()
        assert h.container.run is None and not os.path.exists(left.run_dir)

    boot(tmp_path, monkeypatch, test, ENDED, InitRecord(99, 1, 5), MONITOR, ExitRecord(3, 9))


@pytest.mark.parametrize(("policy", "phase"), [("no", Phase.EXITED), ("always", Phase.RUNNING)])
def test_interrupted_restart_is_continued_at_daemon_start_if_the_restart_policy_demands_it(
    tmp_path, monkeypatch, policy, phase
):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch, restart_policy=RestartPolicy(name=policy)) as h:
            left = Left(h, monkeypatch)
            left.write(InitRecord(99, 1, 5), MONITOR, ExitRecord(3, 9))
            left.monitor.gone.set()
            with h.container.publish() as draft:
                draft.state, draft.monitor_pid, draft.started_before = (
                    State(Phase.RESTARTING, exit_code=3, started_ns=7, finished_ns=9),
                    FakeMonitor.pid,
                    True,
                )
            await restore.restore(h.ports)
            await wait_all_tasks_blocked()
            assert left.row.state.phase is h.container.record.state.phase is phase

    run_fast(main)


# --- without a monitor ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "written", "code", "started"),
    [
        (RUNNING, (InitRecord(99, 1, 5), ExitRecord(3, 9)), 3, 7),
        (RUNNING, (InitRecord(99, 1, 5),), 255, 7),
        (RUNNING, (), 255, 7),
        (State(), (InitRecord(99, 1, 5), ExitRecord(3, 9)), 3, 5),
    ],
    ids=["recorded", "both died", "no records", "start not recorded"],
)
def test_exit_while_no_daemon_ran_is_recorded_and_published_at_daemon_start(
    tmp_path, monkeypatch, runtime, state, written, code, started
):
    async def test(h, left):
        found = h.container.record.state
        assert (found.phase, found.exit_code, found.started_ns) == (Phase.EXITED, code, started) and left.row.state == found
        assert h.container.record.started_before and h.container.record.sandbox is None
        (event,) = [event for event in h.engine.told._waiting if event.type == "container"]
        assert (event.action, event.attributes["exitCode"]) == ("die", str(code))
        assert left.asked == (["kill 99"] if written else []) and "delete" in runtime, "processes and runtime state"
        assert not os.path.exists(left.run_dir)

    boot(tmp_path, monkeypatch, test, state, *written, monitor=False, sandbox=SANDBOX)


def test_run_directory_without_a_process_is_removed_when_the_daemon_starts(tmp_path, monkeypatch, runtime):
    async def test(h, left):
        assert h.container.record.state == State() and not h.engine.actions() and left.commits == 0
        assert "delete" in runtime and not os.path.exists(left.run_dir)

    boot(tmp_path, monkeypatch, test, State(), monitor=False)


def test_daemon_start_calls_no_runtime_for_a_container_without_a_run_directory(tmp_path, monkeypatch, runtime):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            no_threads(monkeypatch)
            h.container.record.state = ENDED
            await restore.restore(h.ports)
            await wait_all_tasks_blocked()
            assert h.container.record.state == ENDED and not runtime and not h.engine.actions()

    run_fast(main)


# --- unusable monitors -------------------------------------------------------------------------------------------------


@pytest.fixture
def process():
    """A process that the test starts in place of a monitor."""
    with subprocess.Popen(["sleep", "60"]) as made:
        yield made
        made.kill()


def test_monitor_that_refuses_connections_is_killed(tmp_path, monkeypatch, process):
    async def refuse(*of):
        raise Unavailable("connection refused")

    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            left = Left(h, monkeypatch)
            monkeypatch.setattr(MonitorClient, "adopt", refuse)
            left.write(MonitorRecord(process.pid, linux.process_start_time(process.pid), ID))
            await restore.restore(h.ports)
            await wait_all_tasks_blocked()

    run_fast(main)
    assert process.wait(10) == -9


def test_process_with_a_reused_monitor_pid_is_not_killed(tmp_path, process):
    descriptors = len(os.listdir("/proc/self/fd"))
    records.write(str(tmp_path), MonitorRecord(process.pid, linux.process_start_time(process.pid) - 1, ID))
    adoption.kill_monitor(str(tmp_path))
    adoption.kill_monitor(str(tmp_path / "absent"))
    assert process.poll() is None and len(os.listdir("/proc/self/fd")) == descriptors
