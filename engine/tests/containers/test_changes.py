"""Changes of a container's record that are undone when what they belong to fails."""

import pytest
from engine_fixture import engine_fixture, run_fast

from orlop_engine.containers import update
from orlop_engine.networks.records import Sandbox
from orlop_engine.types.containers import UpdateRequest
from orlop_sdk import Unavailable


def sandbox(name):
    return Sandbox(container_id="c" * 64, container_name=name, network_mode="bridge", hostname="web", endpoints=())


def test_fields_of_a_failed_change_are_restored(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            container, after = h.container, sandbox("after")
            container.record.sandbox = before = sandbox("before")
            with pytest.raises(KeyError), container.change(sandbox=after, removing=True):
                assert container.record.sandbox is after and container.record.removing
                container.views["list"] = b"of the change"
                raise KeyError
            assert container.record.sandbox is before and not container.record.removing and not container.views
            container.views["list"] = b"of the record before"
            with container.change(sandbox=after):
                assert not container.views
            assert container.record.sandbox is after

    run_fast(main)


def test_what_was_set_again_meanwhile_is_not_restored(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            record, other = h.container.record, sandbox("other")
            record.sandbox = sandbox("before")
            with pytest.raises(KeyError), h.container.change(sandbox=sandbox("after"), paused_by_engine=True):
                record.sandbox = other
                raise KeyError
            assert record.sandbox is other and not record.paused_by_engine

    run_fast(main)


def test_an_update_that_cannot_be_recorded_changes_nothing(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            before = h.container.record.host_config
            h.engine.store.full = True
            with pytest.raises(Unavailable):
                await update.update(h.ports, h.container, UpdateRequest(cpu_shares=100))
            assert h.container.record.host_config is before

    run_fast(main)
