"""Races between operations on one container: removals, starts, exits."""

from types import SimpleNamespace

import pytest
import trio
from engine_fixture import ID, engine_fixture, run_fast
from trio.testing import wait_all_tasks_blocked

from orlop_engine.containers import attach
from orlop_engine.types.containers import RestartPolicy
from orlop_monitor.protocol import Attach
from orlop_sdk import Conflict, DriverError, NotFound, Unavailable

# --- waiting --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("condition", ["next-exit", "removed"])
def test_removal_of_a_container_ends_every_wait_request(tmp_path, monkeypatch, condition):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            pending = h.containers.waiting(h.container, condition)
            await h.containers.remove(h.container, False, False)
            with trio.fail_after(1):
                assert await pending.get() == 0

    run_fast(main)


def test_attach_to_a_never_started_container_ends_when_the_container_is_removed(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h, trio.open_nursery() as nursery:
            got = []

            async def client():
                got.append(await attach.join(h.container, Attach()))

            nursery.start_soon(client)
            await wait_all_tasks_blocked()
            await h.containers.remove(h.container, False, False)
            with trio.fail_after(1):
                await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
            assert got == [None]

    run_fast(main)


@pytest.mark.parametrize("by", ["stop", "kill"])
def test_stop_between_restarts_ends_wait_requests(tmp_path, monkeypatch, by):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch, restart_policy=RestartPolicy(name="always")) as h:
            await h.containers.start(h.container)
            h.run.monitor.exit(3)
            with trio.fail_after(1):
                await h.run.finished.wait()
            assert h.container.record.state.restarting
            pending = h.containers.waiting(h.container, "")
            await (h.containers.stop(h.container, "", None) if by == "stop" else h.containers.kill(h.container, ""))
            with trio.fail_after(1):
                assert await pending.get() == 3
            await trio.sleep(5)
            assert len(h.launched) == 1

    run_fast(main)


# --- removal against other operations -------------------------------------------------------------------------------


def test_restart_does_not_start_a_container_that_was_removed_during_the_restart(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h, trio.open_nursery() as nursery:
            async with h.container.lock:
                failures = []

                async def restart():
                    try:
                        await h.containers.restart(h.container, "", None)
                    except Conflict as error:
                        failures.append(str(error))

                nursery.start_soon(h.containers.remove, h.container, False, False)
                await wait_all_tasks_blocked()
                nursery.start_soon(restart)
                await wait_all_tasks_blocked()
            await wait_all_tasks_blocked()
            assert not h.launched and failures == ["container is marked for removal and cannot be started"]

    run_fast(main)


def test_forced_removal_kills_a_container_that_was_just_restarted(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h, trio.open_nursery() as nursery:
            await h.containers.start(h.container)
            h.launching = trio.Event()
            nursery.start_soon(h.containers.restart, h.container, "KILL", None)
            await wait_all_tasks_blocked()  # the first run has been stopped, and the second is being started
            nursery.start_soon(h.containers.remove, h.container, True, False)
            await wait_all_tasks_blocked()
            h.launching.set()
            with trio.fail_after(3):
                await h.container.removed.get()
            assert all(run.finished.is_set() for run in h.launched)
            assert ID not in h.engine.store.rows

    run_fast(main)


def test_forced_removal_does_not_wait_for_a_start(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h, trio.open_nursery() as nursery:
            h.launching = trio.Event()
            nursery.start_soon(h.containers.start, h.container)
            await wait_all_tasks_blocked()
            nursery.start_soon(h.containers.remove, h.container, True, False)
            await trio.sleep(0.05)
            h.launching.set()
            with trio.fail_after(1):
                await h.container.removed.get()
            assert h.engine.actions()[-3:] == ["kill", "die", "destroy"]

    run_fast(main)


def test_kill_waits_for_a_start_in_progress(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h, trio.open_nursery() as nursery:
            h.launching = trio.Event()
            nursery.start_soon(h.containers.start, h.container)
            await wait_all_tasks_blocked()
            nursery.start_soon(h.containers.kill, h.container, "")
            await wait_all_tasks_blocked()
            h.launching.set()
            with trio.fail_after(1):
                await wait_all_tasks_blocked()
                await h.run.finished.wait()

    run_fast(main)


def test_only_one_of_several_concurrent_removals_succeeds(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            answers = []

            async def remove(force):
                try:
                    await h.containers.remove(h.container, force, False)
                    answers.append("removed")
                except (NotFound, Conflict) as error:
                    answers.append(type(error).__name__)

            async with h.container.lock, trio.open_nursery() as nursery:
                nursery.start_soon(remove, False)
                nursery.start_soon(remove, False)
                await wait_all_tasks_blocked()
                nursery.start_soon(remove, True)
                await wait_all_tasks_blocked()
                h.container.lock.release()
                await wait_all_tasks_blocked()
                await h.container.lock.acquire()
            assert answers.count("removed") == 1 and len(answers) == 3
            assert h.engine.actions().count("destroy") == 1

    run_fast(main)


@pytest.mark.parametrize("force", [True, False])
def test_a_removal_that_failed_can_be_tried_again(tmp_path, monkeypatch, force):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            h.engine.store.full = True
            with pytest.raises(Unavailable):
                await h.containers.remove(h.container, force, False)
            h.engine.store.full = False
            await h.containers.remove(h.container, force, False)
            assert not h.engine.store.rows

    run_fast(main)


def test_row_that_is_being_deleted_is_not_saved(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h, trio.open_nursery() as nursery:
            h.engine.store.slow = trio.Event()
            nursery.start_soon(h.containers.remove, h.container, False, False)
            await wait_all_tasks_blocked()
            nursery.start_soon(h.ports.rows.save, h.container)
            await wait_all_tasks_blocked()
            h.engine.store.slow.set()
            await wait_all_tasks_blocked()
            assert not h.engine.store.rows

    run_fast(main)


def test_rename_of_a_removed_container_fails_and_reserves_no_name(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h, trio.open_nursery() as nursery:
            failures = []

            async def rename():
                try:
                    await h.containers.rename(h.container, "other")
                except NotFound as error:
                    failures.append(error)

            async with h.container.lock:
                nursery.start_soon(h.containers.remove, h.container, False, False)
                await wait_all_tasks_blocked()
                nursery.start_soon(rename)
                await wait_all_tasks_blocked()
            await wait_all_tasks_blocked()
            assert failures and h.index.names == {}

    run_fast(main)


def test_prune_continues_after_a_container_whose_size_cannot_be_measured(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            h.add("second", "d" * 64)

            async def usage(key):
                if key == ID:
                    raise DriverError("cannot measure it")
                return SimpleNamespace(size=5)

            h.engine.storage.usage = usage
            assert await h.containers.prune({}) == (["d" * 64], 5)

    run_fast(main)
