"""A start of the daemon with a thousand containers, a few of them running: the time until the daemon answers, and the
time to list the containers."""

from __future__ import annotations

import json
import os
import secrets
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import trio
from tests.integration.engine import BUSYBOX, Engine, UnixConnection, patience, until

from orlop_kernel.store import Delete, Put, Store

pytestmark = pytest.mark.root

STOPPED, ALIVE = 950, 10
BOOT, LIST = patience(2.0), patience(0.05)
TICKS = os.sysconf("SC_CLK_TCK")


def fill(engine: Engine, model: str, count: int) -> None:
    """Copies of a stopped container's row, with new ids and names. Their image does not exist, so the daemon expects no
    files on disk."""
    path = os.path.join(engine.data_root, "orlop.db")

    async def copy() -> None:
        async with Store.open(path) as store:
            row = json.loads(dict(store.load("containers"))[model])
            made = []
            for number in range(count):
                ident = secrets.token_hex(32)
                changed = {**row, "id": ident, "name": f"many{number}", "image_id": "sha256:" + "0" * 64}
                made.append(Put("containers", ident, msgspec.json.encode(changed)))
            await store.commit(made)

    trio.run(copy)


def processor_time(engine: Engine) -> float:
    """Processor time of the daemon in seconds, which is independent of other load."""
    assert engine.process is not None
    fields = Path(f"/proc/{engine.process.pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def percentile(values: list[float], part: float) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[round(part * 100) - 1]


def test_start_and_container_list_are_fast_with_a_thousand_containers(fresh: Callable[..., Engine]) -> None:
    engine = fresh({"live-restore": True, "shutdown-timeout": 3})
    model = engine.ok("run", "-d", "--name", "model", BUSYBOX, "true")
    engine.wait_state("model", "exited")
    for number in range(ALIVE):
        engine.ok("run", "-d", "--name", f"alive{number}", BUSYBOX, "sleep", "1000")
    engine.stop()
    fill(engine, model, STOPPED)

    began = time.monotonic()
    engine.start()
    boot, worked = time.monotonic() - began, processor_time(engine)
    found = engine.api("GET", "/containers/json?all=1")[1]
    assert len(found) == STOPPED + ALIVE + 1
    assert sum(each["State"] == "running" for each in found) == ALIVE
    until(lambda: engine.log().count("adopted container") == ALIVE, "all that live are adopted")
    assert worked < BOOT

    connection = UnixConnection(engine.socket)
    taken, worked_before = [], processor_time(engine)
    for _ in range(100):
        began = time.monotonic()
        connection.request("GET", "/containers/json?all=1")
        connection.getresponse().read()
        taken.append(time.monotonic() - began)
    connection.close()
    a_list = (processor_time(engine) - worked_before) / len(taken)
    assert a_list < LIST
    print(f"boot {boot:.2f} s, {worked:.2f} s of work; list {a_list * 1000:.1f} ms of work, ", end="")
    print(f"p50 {percentile(taken, 0.5) * 1000:.1f} ms, p99 {percentile(taken, 0.99) * 1000:.1f} ms")

    store = os.path.join(engine.data_root, "orlop.db")
    engine.stop()
    _drop(store, "many")
    engine.start()  # the cleanup needs a daemon, because it removes containers one by one


def _drop(path: str, prefix: str) -> None:
    async def drop() -> None:
        async with Store.open(path) as store:
            gone = [key for key, row in store.load("containers") if json.loads(row)["name"].startswith(prefix)]
            await store.commit([Delete("containers", key) for key in gone])

    trio.run(drop)
