"""The container's record after an operation that fails, or during which another event occurs."""

import pytest
import trio
from engine_fixture import RealLaunch, engine_fixture, run_fast
from trio.testing import wait_all_tasks_blocked

from orlop_engine.containers import lifecycle, pausing, stopping
from orlop_engine.containers.record import decode
from orlop_engine.containers.state import InvalidTransition, Phase, State
from orlop_sdk import Conflict, DriverError, Unavailable


def row(h):
    return decode(h.engine.store.rows[h.container.id])


def test_container_that_cannot_be_resumed_stays_paused(tmp_path, monkeypatch, runtime):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)
            await h.containers.pause(h.container)
            before = h.container.record.state
            runtime.fails = ("unpause",)
            with pytest.raises(DriverError, match="cannot unpause"):
                await h.containers.unpause(h.container)
            assert h.container.record.state is before
            await wait_all_tasks_blocked()
            assert row(h).state == before

    run_fast(main)


def test_exit_during_a_failed_resume_is_recorded(tmp_path, monkeypatch, runtime):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)
            await h.containers.pause(h.container)

            async def end(verb):
                h.run.monitor.exit(3)
                await h.run.finished.wait()

            runtime.fails, runtime.first = ("unpause",), end
            with pytest.raises(DriverError, match="cannot unpause"):
                await h.containers.unpause(h.container)
            await wait_all_tasks_blocked()
            assert h.container.record.state.phase is row(h).state.phase is Phase.EXITED

    run_fast(main)


@pytest.mark.parametrize("held", [False, True])
def test_container_that_exits_while_it_is_being_paused_is_recorded_as_exited(tmp_path, monkeypatch, runtime, held):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)

            async def end(verb):
                if verb == "pause":
                    h.run.monitor.exit(3)
                    await h.run.finished.wait()

            runtime.first = end
            with pytest.raises(Conflict, match="is not running"):
                await pausing.pause(h.ports, h.container, paused_by_engine=held)
            state = h.container.record.state
            assert (state.phase, state.exit_code, h.container.record.paused_by_engine) == (Phase.EXITED, 3, False)
            assert runtime == ["pause", "unpause"], "its cgroup does not stay frozen"

    run_fast(main)


def test_a_container_whose_pause_cannot_be_recorded_is_shown_as_paused(tmp_path, monkeypatch, runtime):
    """The container's cgroup is frozen, so the container is shown as paused and can be resumed."""

    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)
            await wait_all_tasks_blocked()
            h.engine.store.full = True
            with pytest.raises(Unavailable):
                await h.containers.pause(h.container)
            assert h.container.record.state.paused
            h.engine.store.full = False
            await h.containers.unpause(h.container)
            assert h.container.record.state.phase is Phase.RUNNING and runtime == ["pause", "unpause"]

    run_fast(main)


def test_shutdown_does_not_cancel_a_restart_in_progress(tmp_path, monkeypatch):
    """When the daemon starts, restart policies may require starts of containers. A shutdown cancels those that have not
    begun. If a start has begun, the shutdown then stops the container."""

    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            h.container.record.state = State(Phase.RESTARTING, started_ns=1)
            h.launching = trio.Event()
            h.ports.background.start(lifecycle.start_locked, h.ports, h.container)
            await wait_all_tasks_blocked()
            stopping.cancel_restart(h.container)
            assert h.container.record.state.running
            h.launching.set()
            await wait_all_tasks_blocked()
            assert h.container.record.state.phase is Phase.RUNNING

    run_fast(main)


@pytest.mark.parametrize("operation", ["start", "restart"])
def test_a_dead_container_is_not_started(tmp_path, monkeypatch, operation):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            h.container.record.state = dead = State(Phase.DEAD, started_ns=1, exit_code=3)
            with pytest.raises(Conflict, match="container is marked for removal and cannot be started"):
                await (h.containers.start(h.container) if operation == "start" else h.containers.restart(h.container, "", 1))
            assert h.container.record.state is dead and not h.launched

    run_fast(main)


def test_container_is_shown_as_dead_if_its_automatic_removal_fails(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch, auto_remove=True) as h:
            await h.containers.start(h.container)
            await wait_all_tasks_blocked()
            h.engine.store.full = True
            h.run.monitor.exit(3)
            await h.run.finished.wait()
            await wait_all_tasks_blocked()
            state = h.container.record.state
            assert (state.phase, state.exit_code, h.container.record.removing) == (Phase.DEAD, 3, False)
            h.engine.store.full = False
            await h.containers.remove(h.container, False, False)
            assert h.container.id not in h.index

    run_fast(main)


def test_start_that_the_state_machine_refuses_is_undone(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, None) as h:
            real = RealLaunch(h, monkeypatch)
            h.container.record.state = running = State(Phase.RUNNING, pid=5, started_ns=1)
            with pytest.raises(InvalidTransition):
                await lifecycle.start_locked(h.ports, h.container)
            assert real.monitors[0].gone.is_set() and h.container.run is None
            assert h.container.record.state is running

    trio.run(main)
