"""Start and shutdown of the daemon: cleanup of files, containers that are removed or kept, and time limits of stops."""

import os
import subprocess
from dataclasses import dataclass

import pytest
import trio
from engine_fixture import ID, FakeMonitor, NoVolumes, engine_fixture, no_threads, run_fast
from trio.testing import wait_all_tasks_blocked

from orlop_engine.containers import restore
from orlop_engine.containers.container import Run
from orlop_engine.containers.record import MountRecord
from orlop_engine.containers.state import Phase, State
from orlop_engine.networks.records import Sandbox
from orlop_engine.processes import runs
from orlop_engine.types.containers import RestartPolicy
from orlop_monitor import records
from orlop_monitor.protocol import Exited, InitRecord, MonitorRecord
from orlop_sdk import linux

QUARANTINED, UNREADABLE, GONE = "e" * 64, "f" * 64, "9" * 64
ANONYMOUS = MountRecord("volume", "/v", name="anon", anonymous=True)


def sandbox(key):
    return Sandbox(container_id=key, container_name="x", network_mode="bridge", hostname="x", endpoints=())


# --- quarantined containers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("live_restore", [True, False])
def test_running_quarantined_containers_keep_addresses_and_files_only_with_live_restore(tmp_path, monkeypatch, live_restore):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            no_threads(monkeypatch)
            h.engine.config.live_restore = live_restore
            alive = {h.paths.run_dir(key) for key in (QUARANTINED, UNREADABLE)}
            monkeypatch.setattr(runs, "monitor_lives", lambda run_dir: run_dir in alive)
            h.index.quarantined.update({QUARANTINED: sandbox(QUARANTINED), UNREADABLE: None, GONE: sandbox(GONE)})
            for key in (QUARANTINED, UNREADABLE, GONE):
                os.mkdir(h.paths.run_dir(key))
            await restore.restore(h.ports)
            await wait_all_tasks_blocked()
            assert h.engine.networks.restored == ([QUARANTINED] if live_restore else [])
            kept = [key for key in (QUARANTINED, UNREADABLE, GONE) if os.path.exists(h.paths.run_dir(key))]
            assert kept == ([QUARANTINED, UNREADABLE] if live_restore else [])

    run_fast(main)


@pytest.mark.parametrize("what", ["nothing", "stopped", "running", "cleaning up", "quarantined"])
def test_daemon_knows_whether_any_container_is_alive(tmp_path, monkeypatch, what):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            other = h.add("other", "d" * 64)
            if what == "running":
                other.record.state = State(Phase.RUNNING)
            elif what == "cleaning up":
                other.run = Run("")
            h.index.quarantined.update({QUARANTINED: None, UNREADABLE: None})
            lives = [h.paths.run_dir(QUARANTINED)] if what == "quarantined" else []
            monkeypatch.setattr(runs, "monitor_lives", lambda run_dir: run_dir in lives)
            assert restore.any_alive(h.index, h.paths) == (what not in ("nothing", "stopped"))

    run_fast(main)


# --- leftovers of earlier runs ------------------------------------------------------------------------------------------


def test_processes_without_a_container_row_are_killed_and_their_run_directories_are_removed(tmp_path, monkeypatch):
    with subprocess.Popen(["sleep", "60"]) as process:
        killed = []

        async def main():
            async with engine_fixture(tmp_path, monkeypatch) as h:
                no_threads(monkeypatch)
                monkeypatch.setattr(runs, "kill_cgroups", lambda init: killed.append(init.pid))
                for key in (GONE, QUARANTINED):
                    os.mkdir(h.paths.run_dir(key))
                records.write(h.paths.run_dir(GONE), InitRecord(99, 1, 5))
                started = linux.process_start_time(process.pid)
                records.write(h.paths.run_dir(GONE), MonitorRecord(process.pid, started, GONE))
                with open(os.path.join(h.paths.runs_root, "file"), "w"):
                    pass
                await h.containers.start(h.container)
                os.makedirs(h.run.run_dir)
                h.run.settled = trio.Event()
                await restore._sweep_runs(h.ports, [])
                assert os.listdir(h.paths.runs_root) == [os.path.basename(h.run.run_dir)]

        run_fast(main)
        assert process.wait(10) == -9 and killed == [99]


def test_volumes_of_an_interrupted_removal_are_removed(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            removed, committed = [], []

            async def remove(name):
                removed.append(name)

            h.engine.volumes = NoVolumes(remove=remove)
            h.engine.store.load = lambda table: iter([(f"volumes:{GONE}", b'["anon"]')] if table == "intents" else [])
            commit = h.engine.store.commit

            async def record(operations):
                committed.extend(operation.key for operation in operations)
                await commit(operations)

            h.engine.store.commit = record
            await restore.restore(h.ports)
            assert (removed, committed) == (["anon"], [f"volumes:{GONE}"])

    run_fast(main)


@pytest.mark.parametrize(("volumes", "auto_remove"), [(False, False), (True, False), (False, True)])
def test_interrupted_removal_is_completed_with_the_recorded_volumes(tmp_path, monkeypatch, volumes, auto_remove):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch, auto_remove=auto_remove) as h:
            removed = []

            async def remove(name):
                removed.append(name)

            h.engine.volumes = NoVolumes(remove=remove)
            with h.container.publish() as draft:
                draft.removing, draft.removing_volumes, draft.mounts = True, volumes, (ANONYMOUS,)
            await restore.restore(h.ports)
            await wait_all_tasks_blocked()
            assert ID not in h.engine.store.rows and removed == (["anon"] if volumes or auto_remove else [])

    run_fast(main)


@pytest.mark.parametrize("started", [True, False])
def test_ended_container_with_automatic_removal_is_removed_when_the_daemon_starts(tmp_path, monkeypatch, started):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch, auto_remove=True) as h:
            with h.container.publish() as draft:
                draft.started_before = started
                draft.state = State(Phase.EXITED if started else Phase.CREATED, started_ns=1)
            await restore.restore(h.ports)
            await wait_all_tasks_blocked()
            assert (ID not in h.engine.store.rows) == started

    run_fast(main)


def test_container_created_while_the_daemon_starts_is_not_started(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch, restart_policy=RestartPolicy(name="always")) as h:
            h.container.record.started_before, h.container.record.state = True, State(Phase.EXITED, started_ns=1)
            await restore.restore(h.ports)
            new = h.add("new", GONE, restart_policy=RestartPolicy(name="always"))
            await wait_all_tasks_blocked()
            assert h.container.record.state.running and new.record.state == State()

    run_fast(main)


# --- stopping -----------------------------------------------------------------------------------------------------------


@dataclass
class _Limits:
    default_stop_timeout: int = 10
    shutdown_timeout: int = 15


@pytest.mark.parametrize(
    ("own", "limits", "seconds"),
    [
        (None, _Limits(), 10),
        (5, _Limits(), 5),
        (0, _Limits(), 0),
        (-1, _Limits(), 15),
        (-1, _Limits(shutdown_timeout=-1), 10),
        (None, _Limits(default_stop_timeout=-1), 15),
    ],
)
def test_time_limit_of_a_stop_at_daemon_start_is_finite(tmp_path, monkeypatch, own, limits, seconds):
    """A container may have an infinite stop timeout, but the daemon's start must end."""

    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            h.container.record.config.stop_timeout = own
            assert restore._patience(limits, h.container) == seconds

    run_fast(main)


def test_shutdown_takes_no_longer_than_the_stops_of_the_containers(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            h.container.record.config.stop_timeout = 0
            await h.containers.start(h.container)
            h.add("other", GONE)
            began = trio.current_time()
            await restore.shutdown(h.ports, leave_running=False)
            assert trio.current_time() == began and h.container.record.state.exit_code == 137
            assert h.engine.actions() == ["start", "kill", "kill", "die"]

    run_fast(main)


@pytest.mark.parametrize("recorded", [True, False])
def test_shutdown_waits_for_monitors_that_clean_up(tmp_path, monkeypatch, recorded):
    """If the daemon did not wait, the monitors' cgroups and mounts would remain for a moment. The run directory of an
    exit that is not in the row is kept."""

    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h, trio.open_nursery() as nursery:
            h.container.record.state = State(Phase.EXITED, started_ns=1)
            h.container.run = run = Run(h.paths.run_dir(ID), recorded=recorded)
            run.monitor = FakeMonitor(run)
            run.exited.set(Exited(0, 1))
            os.makedirs(run.run_dir)
            ended = []

            async def shutdown():
                await restore.shutdown(h.ports, leave_running=True)
                ended.append(trio.current_time())

            began = trio.current_time()
            nursery.start_soon(shutdown)
            await trio.sleep(2)
            assert not ended
            run.monitor.gone.set()
            await wait_all_tasks_blocked()
            assert ended == [began + 2] and os.path.isdir(run.run_dir) is not recorded
            assert (h.container.run is None) == recorded

    run_fast(main)
