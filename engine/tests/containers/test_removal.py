"""Removal: refusals, the order of its steps, and the cleanup of containers without a row or a snapshot when the daemon
starts."""

import os
from types import SimpleNamespace

import pytest
import trio
from engine_fixture import ID, SANDBOX, NoVolumes, engine_fixture, no_threads, run_fast
from trio.testing import wait_all_tasks_blocked

from orlop_engine.containers import lifecycle, removal, rootfs
from orlop_engine.containers.record import MountRecord
from orlop_engine.containers.state import Phase
from orlop_monitor.protocol import Exited
from orlop_sdk import Conflict, NotFound

OTHER = "d" * 64
INTENT = f"volumes:{ID}"
ANONYMOUS = MountRecord("volume", "/v", name="anon", anonymous=True)


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("force", [False, True])
def test_removal_is_refused_while_another_removal_is_in_progress(tmp_path, monkeypatch, force):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            with h.container.publish() as draft:
                draft.removing = True
            with pytest.raises(Conflict, match="removal of container web is already in progress"):
                await h.containers.remove(h.container, force, False)
            assert ID in h.engine.store.rows

    run_fast(main)


def test_second_of_two_concurrent_removals_fails_with_not_found(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            failures = []

            async def remove():
                try:
                    await h.containers.remove(h.container, False, False)
                except NotFound as error:
                    failures.append(str(error))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(remove)
                nursery.start_soon(remove)
            assert failures == [f"No such container: {ID}"] and h.engine.actions() == ["destroy"]

    run_fast(main)


def test_removal_of_a_running_container_is_refused_at_once(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)
            async with h.container.lock:
                with trio.fail_after(1), pytest.raises(Conflict, match="stop the container before removing"):
                    await h.containers.remove(h.container, False, False)

    run_fast(main)


def test_container_that_is_started_while_a_removal_waits_is_not_removed(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:

            async def remove():
                with pytest.raises(Conflict, match="stop the container before removing"):
                    await h.containers.remove(h.container, False, False)

            async with trio.open_nursery() as nursery, h.container.lock:
                nursery.start_soon(remove)
                await wait_all_tasks_blocked()
                await lifecycle.start_locked(h.ports, h.container)
            assert h.container.record.state.running and not h.container.record.removing

    run_fast(main)


def test_forced_removal_kills_a_container_that_was_started_while_the_removal_waited(tmp_path, monkeypatch):
    """A restart waits for the cleanup of the last monitor. It starts the container after the removal has looked for a
    process to kill."""

    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h, trio.open_nursery() as nursery:
            await h.containers.start(h.container)
            first = h.run
            first.exited.set(Exited(0, 1))
            await first.finished.wait()
            nursery.start_soon(h.containers.restart, h.container, "", None)
            await wait_all_tasks_blocked()
            nursery.start_soon(h.containers.remove, h.container, True, False)
            await wait_all_tasks_blocked()
            first.monitor.gone.set()
            with trio.fail_after(5):
                await h.container.removed.get()
            assert len(h.launched) == 2 and h.run.monitor.gone.is_set() and not h.engine.store.rows

    run_fast(main)


# --- steps ----------------------------------------------------------------------------------------------------------


def test_die_event_is_published_before_the_destroy_event(tmp_path, monkeypatch):
    """The row of the exit is still being written when the removal begins."""

    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h, trio.open_nursery() as nursery:
            await h.containers.start(h.container)
            await wait_all_tasks_blocked()
            h.engine.store.slow = trio.Event()
            h.run.monitor.exit(0)
            await wait_all_tasks_blocked()
            nursery.start_soon(h.containers.remove, h.container, False, False)
            await wait_all_tasks_blocked()
            h.engine.store.slow.set()
            await h.container.removed.get()
            assert h.engine.actions() == ["start", "die", "destroy"]

    run_fast(main)


@pytest.mark.parametrize("volumes", [False, True])
def test_removal_of_anonymous_volumes_is_recorded_before_the_volumes_are_removed(tmp_path, monkeypatch, volumes):
    """The intent to remove the volumes is committed together with the deletion of the row. After a crash, the next start of
    the daemon removes the volumes."""

    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            removed, committed, rows = [], [], h.engine.store.rows

            async def remove(name):
                await trio.lowlevel.checkpoint()
                removed.append((name, ID in rows, INTENT in rows))

            h.engine.volumes = NoVolumes(remove=remove)
            commit = h.engine.store.commit

            async def record(operations):
                committed.append([operation.key for operation in operations])
                await commit(operations)

            h.engine.store.commit = record
            h.container.record.mounts = (ANONYMOUS, MountRecord("volume", "/n", name="named"))
            await h.containers.remove(h.container, False, volumes)
            assert removed == ([("anon", False, True)] if volumes else [])
            assert committed == ([[ID, INTENT], [INTENT]] if volumes else [[ID]]) and not rows

    run_fast(main)


def test_removal_deletes_directories_snapshots_and_network_addresses(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            no_threads(monkeypatch)
            collected, pending, discard = [], [], h.engine.storage.remove

            async def collect():
                collected.append(True)

            async def remove(key):
                pending.append((key, ID in h.index.pending_removal))
                await discard(key)

            h.engine.images = SimpleNamespace(get=lambda image: None, collect=collect)
            h.engine.storage.remove = remove
            h.container.record.sandbox = SANDBOX  # a failed start of an older daemon may have left a sandbox
            directories = (h.paths.directory(ID), h.paths.run_dir(ID))
            for directory in directories:
                os.makedirs(directory)
            await h.containers.remove(h.container, False, False)
            assert [os.path.exists(directory) for directory in directories] == [False, False]
            assert pending == [(ID, True), (f"init-{ID}", True)], "the sweep at boot leaves these alone meanwhile"
            assert not h.index.pending_removal and not h.index.names and collected == [True]
            assert [sandbox.container_id for sandbox in h.engine.networks.released] == [ID]

    run_fast(main)


# --- --rm and prune -------------------------------------------------------------------------------------------------


def test_automatic_removal_skips_a_container_that_was_started_again(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch, auto_remove=True) as h:
            await h.containers.start(h.container)
            await removal.auto_remove(h.ports, h.container)
            assert h.container.record.state.running and ID in h.index and h.engine.actions() == ["start"]

    run_fast(main)


def test_wait_requests_end_if_the_automatic_removal_fails(tmp_path, monkeypatch):
    """`docker run --rm` returns, and the container is shown as dead."""

    async def main():
        async with engine_fixture(tmp_path, monkeypatch, auto_remove=True) as h:
            await h.containers.start(h.container)
            await wait_all_tasks_blocked()
            pending, h.engine.store.full = h.containers.waiting(h.container, "removed"), True
            h.run.monitor.exit(3)
            with trio.fail_after(5):
                assert await pending.get() == 3
            assert h.container.record.state.phase is Phase.DEAD

    run_fast(main)


def test_prune_removes_stopped_containers_only(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            h.add("stopped", OTHER)

            async def usage(key):
                return SimpleNamespace(size=5)

            h.engine.storage.usage = usage
            await h.containers.start(h.container)
            await wait_all_tasks_blocked()
            assert await h.containers.prune({}) == ([OTHER], 5)
            assert set(h.index.by_id) == {ID} == set(h.engine.store.rows)
            events = [event for event in h.engine.told._waiting if event.action in ("destroy", "prune")]
            assert [(event.action, event.actor_id) for event in events] == [("destroy", OTHER), ("prune", "")]
            assert events[-1].attributes == {"reclaimed": "5"}

    run_fast(main)


# --- start of the daemon --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("table", "kept"), [("containers", True), ("volumes", False)])
def test_snapshot_without_a_container_is_removed(tmp_path, monkeypatch, table, kept):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:

            async def keys():
                return [ID, OTHER, "init-" + OTHER, "base"]

            h.engine.storage.keys = keys
            h.engine.store.quarantine_rows = [(table, OTHER, "unreadable")]
            await removal.sweep(h.ports)
            assert h.engine.storage.removed == (() if kept else (OTHER,))

    run_fast(main)


def test_run_directory_of_a_container_without_a_row_is_removed(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            no_threads(monkeypatch)
            for directory in (h.paths.directory(OTHER), h.paths.run_dir(OTHER), h.paths.run_dir(ID)):
                os.makedirs(directory)
            await removal.sweep(h.ports)
            assert not os.path.exists(h.paths.run_dir(OTHER)) and not os.path.exists(h.paths.directory(OTHER))
            assert os.path.exists(h.paths.run_dir(ID))

    run_fast(main)


@pytest.mark.parametrize("image", ["there", "removed"])
def test_missing_snapshot_is_created_again_at_daemon_start_if_the_image_exists(tmp_path, monkeypatch, caplog, image):
    """After a power failure, a snapshot is missing if its writes had not reached the disk."""

    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            prepared = []

            async def keys():
                return [OTHER]

            async def prepare(ports, record, image):
                prepared.append(record.id)

            h.add("there", OTHER)
            h.engine.storage.keys = keys
            if image == "removed":
                h.engine.images = SimpleNamespace(get=lambda image: None)
            monkeypatch.setattr(rootfs, "prepare", prepare)
            await removal.sweep(h.ports)
            assert prepared == ([ID] if image == "there" else [])
            assert os.path.isdir(h.paths.directory(ID)) == (image == "there")
            assert ("container web: its snapshot is missing" in caplog.text) == (image == "there")

    run_fast(main)
