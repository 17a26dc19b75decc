"""Rows of containers: their fields, rows of an earlier schema, and rows that cannot be used."""

import json
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from engine_fixture import engine_fixture, run_fast

from orlop_engine.containers.record import SCHEMA, decode, encode
from orlop_engine.containers.rows import Rows
from orlop_engine.containers.state import Phase, State
from orlop_sdk import Unavailable

OLD = json.loads((Path(__file__).parent / "rows_schema_0.json").read_text())
"""Rows of schema 0, as its encoder wrote them: the state is booleans."""

PHASES = {
    "created": Phase.CREATED,
    "created, start failed": Phase.CREATED,
    "created, start announced": Phase.RESTARTING,
    "running": Phase.RUNNING,
    "running, dead": Phase.RUNNING,
    "running again": Phase.RUNNING,
    "paused": Phase.PAUSED,
    "restarting": Phase.RESTARTING,
    "exited": Phase.EXITED,
    "exited, paused": Phase.EXITED,
    "exited, out of memory": Phase.EXITED,
    "exited, start failed": Phase.EXITED,
    "dead": Phase.DEAD,
}
BOOLEANS = {"running", "paused", "restarting", "dead"}


def packed(row):
    return json.dumps(row).encode()


def phaseless(row):
    """The fields that both schemas have."""
    state = {name: value for name, value in row["state"].items() if name not in BOOLEANS | {"phase"}}
    return {name: value for name, value in row.items() if name in OLD["created"]} | {"state": state}


@pytest.mark.parametrize("which", OLD)
def test_row_of_schema_0_is_read(which):
    record = decode(packed(OLD[which]))
    assert record.state.phase is PHASES[which] and record.schema == SCHEMA
    again = json.loads(encode(record))
    assert phaseless(again) == phaseless(OLD[which])
    assert decode(packed(again)) == record


def test_row_contains_a_schema_number_and_a_phase_instead_of_state_booleans():
    row = json.loads(encode(decode(packed(OLD["paused"]))))
    assert row["schema"] == SCHEMA == 1 and row["state"]["phase"] == "paused"
    assert not BOOLEANS & row["state"].keys()


def test_state_booleans_in_a_row_of_the_current_schema_are_ignored():
    row = json.loads(encode(decode(packed(OLD["exited"]))))
    assert decode(packed(row | {"state": row["state"] | {"running": True}})).state.phase is Phase.EXITED


def test_row_without_a_state_is_read_as_the_row_of_a_new_container():
    old = {name: value for name, value in OLD["created"].items() if name != "state"}
    assert decode(packed(old)).state == State()


def spoiled(key, **state):
    row = json.loads(encode(decode(packed(OLD["exited"]))))
    return row | {"id": key, "name": key[:4]} | ({"state": row["state"] | state} if state else {})


def test_invalid_rows_are_quarantined_and_valid_rows_are_loaded(tmp_path, monkeypatch):
    keys = [letter * 64 for letter in "abdef"]
    rows = {
        keys[0]: packed(spoiled(keys[0])),
        keys[1]: packed(spoiled(keys[1], phase="hibernating")),
        keys[2]: packed(spoiled(keys[2]) | {"schema": SCHEMA + 1}),
        keys[3]: packed(spoiled(keys[3]) | {"schema": -1}),
        keys[4]: packed(OLD["running"] | {"id": keys[4], "state": {"running": "yes"}}),
        OLD["paused"]["id"]: packed(OLD["paused"]),
    }
    reasons = {}

    async def quarantine(table, key, reason):
        reasons[key] = reason

    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            store = SimpleNamespace(load=lambda table: rows.items(), quarantine=quarantine)
            await Rows(store, h.index).load(frozenset())
            assert set(h.index.by_id) == {h.container.id, keys[0], OLD["paused"]["id"]}
            assert set(h.index.quarantined) == set(reasons) == set(keys[1:])
            assert "hibernating" in reasons[keys[1]]
            assert (
                reasons[keys[2]]
                == f"it has schema {SCHEMA + 1}, but this version of Orlop reads only schemas up to {SCHEMA}"
            )

    run_fast(main)


def loaded(tmp_path, monkeypatch, rows, test, deciding=frozenset()):
    """Load rows into the index of a daemon that has one container already."""

    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:

            async def quarantine(table, key, reason):
                reasons[key] = reason

            reasons = {}
            await Rows(SimpleNamespace(load=lambda table: rows.items(), quarantine=quarantine), h.index).load(deciding)
            test(h.index, reasons)

    run_fast(main)


def test_row_with_a_wrong_id_or_a_name_in_use_is_quarantined(tmp_path, monkeypatch):
    """The daemon makes paths from the id, so a wrong id could lead outside of the container's directory."""
    good, other, second, third = (letter * 64 for letter in "abde")
    rows = {
        good: packed(spoiled(good)),
        other: packed(spoiled(second)),
        "../../etc": packed(spoiled("../../etc")),
        third: packed(spoiled(third) | {"name": good[:4]}),
    }

    def test(index, reasons):
        assert good in index.by_id and set(reasons) == set(index.quarantined) == {other, "../../etc", third}
        assert reasons[other] == f"row contains another id: '{second}'"
        assert reasons["../../etc"] == "row contains another id: '../../etc'"
        assert reasons[third] == f"row contains the name 'aaaa' of container {good[:12]}"

    loaded(tmp_path, monkeypatch, rows, test)


def test_addresses_of_a_quarantined_container_are_read_from_its_row(tmp_path, monkeypatch):
    """A quarantined container may be running, so no other container may get its addresses. A sandbox of another container is
    ignored."""
    own, others = "a" * 64, "b" * 64
    sandbox = {
        "container_id": own,
        "container_name": "x",
        "network_mode": "bridge",
        "hostname": "x",
        "endpoints": [],
    }
    broken = {"schema": SCHEMA + 1, "sandbox": sandbox}
    rows = {own: packed(spoiled(own) | broken), others: packed(spoiled(others) | broken)}

    def test(index, reasons):
        assert index.quarantined[own].container_id == own and index.quarantined[others] is None

    loaded(tmp_path, monkeypatch, rows, test)


def test_image_labels_that_control_access_are_removed_from_containers_when_rows_are_loaded(tmp_path, monkeypatch):
    """A listener may have been added since the container was created."""
    key = "a" * 64
    row = spoiled(key)
    row["config"] = row["config"] | {"Labels": {"team": "web", "a": "b", "given": "c"}}
    row["image_labels"] = ["team", "a"]

    def test(index, reasons):
        assert not reasons and index.by_id[key].record.config.labels == {"a": "b", "given": "c"}

    loaded(tmp_path, monkeypatch, {key: packed(row)}, test, frozenset({"team", "given"}))


@pytest.mark.parametrize("full", [False, True])
def test_every_save_of_a_container_row_changes_the_revision(tmp_path, monkeypatch, full):
    """Encoded answers about the container are not used any more, even if its row cannot be written."""

    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            before, h.engine.store.full = h.container.revision, full
            with suppress(Unavailable):
                await h.ports.rows.save(h.container)
            assert h.container.revision is not before

    run_fast(main)
