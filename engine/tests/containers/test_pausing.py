"""Pause and unpause: refusals, the order of commit and runtime call, and the state after a failure."""

from types import SimpleNamespace

import pytest
import trio
from engine_fixture import engine_fixture, run_fast
from trio.testing import wait_all_tasks_blocked

from orlop_engine.containers import pausing
from orlop_engine.containers.record import decode
from orlop_engine.containers.state import Phase
from orlop_engine.types.containers import RestartPolicy
from orlop_sdk import Conflict, DriverError, Unavailable


def test_pause_and_unpause_publish_events(tmp_path, monkeypatch, runtime):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)
            await h.containers.pause(h.container)
            await h.containers.unpause(h.container)
            assert h.engine.actions() == ["start", "pause", "unpause"] and runtime == ["pause", "unpause"]

    run_fast(main)


def test_pause_of_a_container_that_does_not_run_is_refused(tmp_path, monkeypatch, runtime):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            with pytest.raises(Conflict, match="is not running"):
                await h.containers.pause(h.container)
            with pytest.raises(DriverError, match="is not paused"):
                await h.containers.unpause(h.container)
            assert not runtime and not h.engine.actions()

    run_fast(main)


def test_second_pause_is_refused(tmp_path, monkeypatch, runtime):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)
            await h.containers.pause(h.container)
            with pytest.raises(Conflict, match="is already paused"):
                await h.containers.pause(h.container)
            assert runtime == ["pause"] and h.container.record.state.paused

    run_fast(main)


def test_pause_between_restarts_is_refused(tmp_path, monkeypatch, runtime):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch, restart_policy=RestartPolicy(name="always")) as h:
            await h.containers.start(h.container)
            h.run.monitor.exit(1)
            await h.run.finished.wait()
            with pytest.raises(Conflict, match="is restarting, wait until the container is running"):
                await h.containers.pause(h.container)
            assert not runtime and h.container.record.state.phase is Phase.RESTARTING

    run_fast(main)


def test_pause_waits_until_the_starting_daemon_has_started_the_container(tmp_path, monkeypatch, runtime):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h, trio.open_nursery() as nursery:
            h.container.owed_start = tried = trio.Event()
            nursery.start_soon(h.containers.pause, h.container)
            await trio.sleep(1)
            await h.containers.start(h.container)
            tried.set()
        assert h.container.record.state.paused

    run_fast(main)


def test_paused_container_is_shown_as_unhealthy(tmp_path, monkeypatch, runtime):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)
            await wait_all_tasks_blocked()
            h.container.health = SimpleNamespace(status="healthy")
            await h.containers.pause(h.container)
            assert h.container.health.status == "unhealthy"

    run_fast(main)


def test_failed_pause_leaves_a_running_container(tmp_path, monkeypatch, runtime):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)
            runtime.fails = ("pause",)
            with pytest.raises(DriverError, match="cannot pause"):
                await pausing.pause(h.ports, h.container, paused_by_engine=True)
            record = h.container.record
            assert (record.state.phase, record.paused_by_engine, runtime) == (Phase.RUNNING, False, ["pause", "unpause"])

    run_fast(main)


def test_pause_of_a_container_that_has_just_ended_is_refused(tmp_path, monkeypatch, runtime):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)

            async def end(verb):
                h.run.monitor.exit(0)

            runtime.fails, runtime.first = ("pause",), end
            with pytest.raises(Conflict, match="is not running"):
                await h.containers.pause(h.container)

    run_fast(main)


def test_failed_pause_is_undone_even_if_the_client_has_disconnected(tmp_path, monkeypatch, runtime):
    """When the runtime fails, its freeze request stays in force, and could freeze the container later."""

    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)
            with trio.CancelScope() as client:

                async def leave(verb):
                    client.cancel()

                runtime.fails, runtime.first = ("pause",), leave
                await h.containers.pause(h.container)
            assert client.cancelled_caught and runtime == ["pause", "unpause"]

    run_fast(main)


async def interrupted_pause(h, runtime):
    """A pause by the engine that is cancelled before the runtime has frozen anything."""
    with trio.CancelScope() as scope:

        async def cancel(verb):
            scope.cancel()
            await trio.lowlevel.checkpoint()

        runtime.first = cancel
        await pausing.pause(h.ports, h.container, paused_by_engine=True)
    runtime.first = None
    assert h.container.record.paused_by_engine and not runtime


def test_engine_does_not_resume_a_container_that_a_user_paused(tmp_path, monkeypatch, runtime):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)
            await interrupted_pause(h, runtime)
            await h.containers.pause(h.container)
            await pausing.resume(h.ports, h.container)
            assert h.container.record.state.paused and runtime == ["pause"]

    run_fast(main)


def test_engine_clears_the_pause_mark_of_a_container_that_was_never_frozen(tmp_path, monkeypatch, runtime):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)
            await interrupted_pause(h, runtime)
            await pausing.resume(h.ports, h.container)
            assert not h.container.record.paused_by_engine and not runtime

    run_fast(main)


def test_resume_is_recorded_before_the_runtime_resumes_the_container(tmp_path, monkeypatch, runtime):
    """After a crash, the next daemon can see that a container is frozen, but only the row can tell it that the container
    should run."""

    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)
            await h.containers.pause(h.container)
            phases = []

            async def look(verb):
                phases.append(decode(h.engine.store.rows[h.container.id]).state.phase)

            runtime.first = look
            await h.containers.unpause(h.container)
            assert phases == [Phase.RUNNING]

    run_fast(main)


def test_full_disk_does_not_keep_a_container_frozen(tmp_path, monkeypatch, runtime):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)
            await h.containers.pause(h.container)
            h.engine.store.full = True
            with pytest.raises(Unavailable):
                await h.containers.unpause(h.container)
            assert h.container.record.state.phase is Phase.RUNNING and runtime == ["pause", "unpause"]

    run_fast(main)
