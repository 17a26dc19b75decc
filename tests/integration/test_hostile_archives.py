"""Every hostile archive is refused with a clear error or loaded correctly. It leaves nothing behind, and the daemon answers
other clients.

The archives and their expected results are in `tests.registry.hostile_archives`.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from tests.integration.engine import Engine, UnixConnection, children_of, patience
from tests.registry.hostile_archives import CASES, Case
from tests.registry.hostile_archives.making import END, docker, head

from orlop_sdk.testing.busy import tolerated

pytestmark = pytest.mark.root

SECONDS = 20.0
DAEMON_GROWS = 20 << 20
WORKER = 64 << 20


class Pings(threading.Thread):
    """Pings the daemon all the time. `waits` are the seconds until each answer."""

    def __init__(self, path: str) -> None:
        super().__init__(daemon=True)
        self._connection = UnixConnection(path)
        self._ended = threading.Event()
        self.waits: list[float] = []

    def run(self) -> None:
        while not self._ended.wait(0.01):
            began = time.monotonic()
            self._connection.request("GET", "/_ping")
            assert self._connection.getresponse().read() == b"OK"
            self.waits.append(time.monotonic() - began)

    def end(self) -> None:
        self._ended.set()
        self.join()
        self._connection.close()


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = Engine()
    engine.start()
    yield engine
    assert engine.close() == []


def memory(pid: int, key: str) -> int:
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(key))


def load(engine: Engine, body: Iterable[bytes]) -> tuple[str, list[str]]:
    """The error, and the names of the images that were loaded before it."""
    connection = UnixConnection(engine.socket)
    connection.timeout = patience(SECONDS)
    try:
        connection.request(
            "POST", "/images/load?quiet=1", iter(body), {"Content-Type": "application/x-tar"}, encode_chunked=True
        )
        answer = connection.getresponse()
        records = [json.loads(line) for line in answer.read().splitlines()]
    finally:
        connection.close()
    loaded = [record["stream"].partition(": ")[2].strip() for record in records if "Loaded" in record.get("stream", "")]
    return "".join(record.get("error", "") for record in records), loaded


def store(engine: Engine) -> dict[str, list[str]]:
    """All files of images in the data root, and the rows that the API shows."""
    root = engine.data_root
    found = {}
    for name in ("content/blobs/sha256", "content/ingest", "overlay2", "overlay2/l", "overlay2/.orlop/active"):
        path = os.path.join(root, name)
        found[name] = sorted(os.listdir(path)) if os.path.isdir(path) else []
    found["images"] = [image["Id"] for image in engine.api("GET", "/images/json?all=1")[1]]
    return found


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_hostile_archive_is_refused_or_unpacked_correctly(engine: Engine, case: Case) -> None:
    assert engine.process is not None
    before, size = store(engine), memory(engine.process.pid, "VmRSS")
    pings = Pings(str(engine.socket))
    pings.start()
    try:
        began = time.monotonic()
        error, loaded = load(engine, case.body())
        took = time.monotonic() - began
    finally:
        pings.end()
    for image in engine.api("GET", "/images/json?all=1")[1]:
        engine.api("DELETE", f"/images/{image['Id']}?force=1")
    assert case.fits(error), error
    if case.error is None:
        assert len(loaded) == len(case.names) or (case.names == ("",) and loaded), loaded
        for shown, name in zip(loaded, case.names, strict=False):
            assert shown == name or (not name and shown.startswith("sha256:")), loaded
    assert store(engine) == before, "nothing is left"
    assert took < patience(SECONDS)
    assert max(pings.waits, default=0) < tolerated(), "others wait"
    assert engine.blocked() == []
    assert memory(engine.process.pid, "VmRSS") - size < DAEMON_GROWS
    assert not os.path.exists("/etc/orlop-hostile")
    assert not os.path.exists("/tmp/orlop-hostile")


class Workers(threading.Thread):
    """Watches unpack workers. `peak` is the highest memory use of a worker."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(daemon=True)
        self._engine = engine
        self._ended = threading.Event()
        self.peak = 0

    def run(self) -> None:
        while not self._ended.wait(0.02):
            for pid in children_of(self._engine.zygote, "orlop-unpack"):
                with suppress(OSError, StopIteration):
                    self.peak = max(self.peak, memory(pid, "VmHWM"))

    def end(self) -> None:
        self._ended.set()
        self.join()


@pytest.mark.parametrize("pack", [bytes, partial(gzip.compress, compresslevel=1)], ids=["plain", "gzip"])
def test_memory_of_unpack_workers_does_not_depend_on_the_size_of_a_layer(
    engine: Engine, pack: Callable[[bytes], bytes]
) -> None:
    assert engine.process is not None
    data = pack(docker([head("big", 128 << 20) + random.Random(2).randbytes(1 << 20) * 128 + END]))
    Path(f"/proc/{engine.process.pid}/clear_refs").write_text("5")  # resets VmHWM
    size = memory(engine.process.pid, "VmRSS")
    workers = Workers(engine)
    workers.start()
    try:
        assert load(engine, (data[at : at + (1 << 20)] for at in range(0, len(data), 1 << 20))) == ("", ["app:1"])
    finally:
        workers.end()
    assert 0 < workers.peak < WORKER
    assert memory(engine.process.pid, "VmHWM") - size < DAEMON_GROWS
    engine.docker("rmi", "app:1", check=0)
