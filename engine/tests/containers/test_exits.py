"""After the end of a run: waiters, events, the row, and the cleanup after a monitor that died."""

import os

import pytest
import trio
from engine_fixture import ID, SANDBOX, engine_fixture, no_threads, run_fast
from trio.testing import wait_all_tasks_blocked

from orlop_engine.containers.record import MountRecord, decode
from orlop_engine.containers.state import Phase
from orlop_engine.processes import runs
from orlop_engine.types.containers import ExecConfig
from orlop_sdk import NotFound


def row(h):
    return decode(h.engine.store.rows[h.container.id])


def test_wait_requests_return_the_exit_code(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)
            for condition in ("not-running", "next-exit"):
                waiter = h.containers.waiting(h.container, condition)
                if condition == "not-running":
                    h.run.monitor.exit(3)
                else:
                    await h.containers.start(h.container)
                    h.run.monitor.exit(4)
                with trio.fail_after(5):
                    assert await waiter.get() == (3 if condition == "not-running" else 4)

    run_fast(main)


def test_exit_is_published_only_after_it_is_recorded(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)
            await wait_all_tasks_blocked()
            waiter, h.engine.store.slow = h.containers.waiting(h.container, "next-exit"), trio.Event()
            h.run.monitor.exit(3)
            await wait_all_tasks_blocked()
            assert h.engine.actions() == ["start"] and not waiter.is_set()
            h.engine.store.slow.set()
            assert await waiter.get() == 3
            assert h.engine.actions() == ["start", "die"]
            assert (row(h).state.phase, row(h).state.exit_code) == (Phase.EXITED, 3)

    run_fast(main)


def test_exit_on_a_full_disk_is_recorded_once_the_disk_has_space(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)
            await wait_all_tasks_blocked()
            run_dir = h.run.run_dir
            os.makedirs(run_dir)
            h.engine.store.full = True
            h.run.monitor.exit(3)
            await trio.sleep(5)
            assert h.container.record.state.phase is Phase.EXITED and row(h).state.phase is Phase.RUNNING
            assert os.path.isdir(run_dir), "its exit record tells the next daemon"
            h.engine.store.full = False
            await trio.sleep(5)
            assert row(h).state.phase is Phase.EXITED and not os.path.isdir(run_dir)

    run_fast(main)


def test_exit_publishes_an_unmount_event_for_each_volume(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            h.container.record.mounts = (MountRecord("volume", "/data", name="v"), MountRecord("bind", "/b", "/host"))
            await h.containers.start(h.container)
            h.run.monitor.exit(0)
            await h.run.finished.wait()
            events = [(event.action, event.actor_id) for event in h.engine.told._waiting if event.type == "volume"]
            assert events == [("mount", "v"), ("unmount", "v")]

    run_fast(main)


def test_execs_end_with_their_container(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)
            execs = h.engine.execs
            begun, waiting = (execs.create(h.container, ExecConfig(cmd=["true"])) for _ in range(2))
            state = execs.get(begun)
            state.started = state.running = True
            state.begun.set()
            h.container.execs.add(begun)
            h.run.monitor.exit(0)
            await h.run.finished.wait()
            assert state.ended.is_set() and state.exit_code == 137
            with pytest.raises(NotFound):
                execs.get(waiting)

    run_fast(main)


@pytest.mark.parametrize("cgroups", [(), ("/left",)])
def test_remains_of_a_container_whose_monitor_died_are_removed(tmp_path, monkeypatch, runtime, cgroups):
    """Neither the monitor nor the zygote has written an exit record."""

    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            no_threads(monkeypatch)
            killed = []
            monkeypatch.setattr(runs, "kill_cgroups", lambda init: killed.extend(init.cgroups))
            await h.containers.start(h.container)
            h.container.record.sandbox = SANDBOX
            if cgroups:
                os.makedirs(h.run.run_dir)
                with open(f"{h.run.run_dir}/init.json", "w") as file:
                    file.write('{"pid": 99, "start_time": 1, "time_ns": 5, "cgroups": ["/left"]}')
            h.run.monitor.kill()
            await h.run.finished.wait()
            assert (h.container.record.state.exit_code, tuple(killed)) == (255, cgroups)
            assert "delete" in runtime, "the runtime's delete"
            assert [sandbox.container_id for sandbox in h.engine.networks.released] == [ID]

    run_fast(main)
