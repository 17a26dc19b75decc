"""Changes of a container's record: copy, commit, swap; the changes that are published before their commit, and the changes
that a failure undoes."""

import ast
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
from engine_fixture import engine_fixture, run_fast
from trio.testing import wait_all_tasks_blocked

from orlop_engine import containers
from orlop_engine.containers import connections, update
from orlop_engine.containers.record import decode
from orlop_engine.networks.records import Sandbox
from orlop_engine.types.containers import EndpointSettings, UpdateRequest
from orlop_sdk import Unavailable


def sandbox(name):
    return Sandbox(container_id="c" * 64, container_name=name, network_mode="bridge", hostname="web", endpoints=())


def row(h):
    return decode(h.engine.store.rows[h.container.id])


# --- copy, commit, swap ---------------------------------------------------------------------------------------------


async def change(h, **fields):
    async with h.ports.rows.change(h.container) as draft:
        for name, value in fields.items():
            setattr(draft, name, value)


def test_record_change_is_published_after_its_commit(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            before, revision = h.container.record, h.container.revision
            async with h.ports.rows.change(h.container) as draft:
                draft.restart_count, draft.manually_stopped = 3, True
                assert h.container.record is before and before.restart_count == 0
            assert (h.container.record.restart_count, h.container.record.manually_stopped) == (3, True)
            assert row(h) == h.container.record and h.container.revision is not revision
            assert (before.restart_count, before.manually_stopped) == (0, False)  # the old record is unchanged

    run_fast(main)


def test_no_reader_sees_a_record_change_during_its_commit(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h, trio.open_nursery() as nursery:
            before, h.engine.store.slow = h.container.record, trio.Event()
            nursery.start_soon(lambda: change(h, restart_count=3))
            await wait_all_tasks_blocked()
            assert h.container.record is before and before.restart_count == 0
            h.engine.store.slow.set()
            await wait_all_tasks_blocked()
            assert h.container.record.restart_count == 3

    run_fast(main)


@pytest.mark.parametrize("fails", ["the block", "the commit"])
def test_failed_change_leaves_the_record_and_the_row_unchanged(tmp_path, monkeypatch, fails):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            before, kept = h.container.record, h.engine.store.rows[h.container.id]
            h.engine.store.full = fails == "the commit"
            with pytest.raises(Unavailable):
                async with h.ports.rows.change(h.container) as draft:
                    draft.restart_count = 3
                    if fails == "the block":
                        raise Unavailable("it fails")
            assert h.container.record is before and before.restart_count == 0
            assert h.engine.store.rows[h.container.id] == kept

    run_fast(main)


def test_concurrent_changes_of_a_record_are_all_kept(tmp_path, monkeypatch):
    """The row has all changes, too: each change is based on the record that the previous change has published."""

    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            h.engine.store.slow = trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: change(h, restart_count=3))
                nursery.start_soon(lambda: change(h, manually_stopped=True))
                await wait_all_tasks_blocked()
                nursery.start_soon(h.ports.rows.save, h.container)
                await wait_all_tasks_blocked()
                h.engine.store.slow.set()
            assert (h.container.record.restart_count, h.container.record.manually_stopped) == (3, True)
            assert row(h) == h.container.record

    run_fast(main)


def test_saves_of_a_containers_row_do_not_wait_for_each_other(tmp_path, monkeypatch):
    """An exit right after a start must not wait for the commit of the pid."""

    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h, trio.open_nursery() as nursery:
            commits, done = [], trio.Event()

            async def commit(operations):
                commits.append(operations)
                await done.wait()

            h.engine.store.commit = commit
            nursery.start_soon(h.ports.rows.save, h.container)
            nursery.start_soon(h.ports.rows.save, h.container)
            await wait_all_tasks_blocked()
            assert len(commits) == 2
            done.set()

    run_fast(main)


def test_record_fields_published_during_a_commit_are_kept(tmp_path, monkeypatch):
    """An exit takes no lock, and its row is committed after the row of the change."""

    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            h.engine.store.slow = trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: change(h, restart_count=3, sandbox=sandbox("of the change")))
                await wait_all_tasks_blocked()
                with h.container.publish() as draft:
                    draft.sandbox, draft.manually_stopped = sandbox("of the exit"), True
                nursery.start_soon(h.ports.rows.save, h.container)
                await wait_all_tasks_blocked()
                h.engine.store.slow.set()
            record = h.container.record
            assert (record.restart_count, record.manually_stopped, record.sandbox.container_name) == (3, True, "of the exit")
            assert row(h) == record

    run_fast(main)


def test_network_is_not_connected_when_the_row_cannot_be_saved(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            mine = SimpleNamespace(id="n" * 64, name="mine")
            monkeypatch.setattr(h.engine.networks, "resolve", lambda name: mine, raising=False)
            monkeypatch.setattr(connections.planning, "check_combination", lambda mode, records: None)
            monkeypatch.setattr(connections.planning, "check_settings", lambda record, settings: None)
            before, h.engine.store.full = h.container.record.endpoints, True
            with pytest.raises(Unavailable):
                await connections.connect(h.ports, h.container, "mine", EndpointSettings())
            assert h.container.record.endpoints == before == {}

    run_fast(main)


def _sets_field_of_record(node):
    is_target = isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store)
    return is_target and "record" in ast.unparse(node.value).split(".")


def test_no_operation_changes_a_published_record_in_place():
    """In the whole package, `record` is the published record; changes are made to a `draft`."""
    found = []
    for path in sorted(Path(containers.__file__).parent.glob("*.py")):
        if path.name != "record.py":
            tree = ast.walk(ast.parse(path.read_text()))
            found += [f"{path.name}:{node.lineno}" for node in tree if _sets_field_of_record(node)]
    assert not found


# --- fields published for a `with` block ----------------------------------------------------------------------------


def test_temporarily_published_fields_are_restored_if_the_with_block_fails(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            container, before, after = h.container, sandbox("before"), sandbox("after")
            with container.publish() as draft:
                draft.sandbox = before
            with pytest.raises(KeyError), container.published(sandbox=after, removing=True):
                assert container.record.sandbox is after and container.record.removing
                during = container.revision
                raise KeyError
            assert container.record.sandbox is before and not container.record.removing
            assert container.revision is not during
            restored = container.revision
            with container.published(sandbox=after):
                assert container.revision is not restored
            assert container.record.sandbox is after

    run_fast(main)


def test_failed_with_block_does_not_restore_fields_that_were_published_again(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            container, other = h.container, sandbox("other")
            with pytest.raises(KeyError), container.published(sandbox=sandbox("after"), paused_by_engine=True):
                with container.publish() as draft:
                    draft.sandbox = other
                raise KeyError
            assert container.record.sandbox is other and not container.record.paused_by_engine

    run_fast(main)


def test_limits_stay_unchanged_if_an_update_cannot_be_recorded(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            before = h.container.record.host_config
            h.engine.store.full = True
            with pytest.raises(Unavailable):
                await update.update(h.ports, h.container, UpdateRequest(cpu_shares=100))
            assert h.container.record.host_config is before

    run_fast(main)
