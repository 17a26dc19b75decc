"""Sandboxes that are prepared before a start: they are used, or they are outdated, expired or dropped."""

import os

import pytest
import trio
from engine_fixture import FakeMonitor, FakeRuntime, engine_fixture
from trio.testing import MockClock, wait_all_tasks_blocked

from orlop_engine.containers import launch, lifecycle, prepared_sandbox, removal
from orlop_engine.processes.monitor_client import MonitorClient
from orlop_monitor.protocol import Launch
from orlop_sdk import DriverError


class Forge:
    """Replaces the launch of monitors by the zygote. `monitors` are the launched monitors. If `hold` is set, launches wait
    for this event."""

    def __init__(self, monkeypatch):
        self.monitors, self.hold, self.error = [], None, None
        monkeypatch.setattr(MonitorClient, "launch", self.launch)

    async def launch(self, zygote, message, nursery, fds=()):
        assert os.path.isdir(message.run_dir)
        if self.hold is not None:
            await self.hold.wait()
        if self.error is not None:
            raise self.error
        monitor = FakeMonitor(None)
        monitor.is_over = False
        self.monitors.append(monitor)
        return monitor, None


def wanted(h, **more):
    key = h.container.id
    return Launch(key, h.paths.run_dir(key), h.paths.root(key), (), **more)


def with_engine_fixture(tmp_path, monkeypatch, body):
    async def main():
        async with engine_fixture(tmp_path, None) as h:
            await body(h, Forge(monkeypatch))

    trio.run(main, clock=MockClock(autojump_threshold=0.1))


def test_start_uses_the_prepared_sandbox(tmp_path, monkeypatch):
    async def body(h, forge):
        prepared_sandbox.begin(h.ports, h.container, wanted(h), FakeRuntime())
        forge.hold = trio.Event()
        await wait_all_tasks_blocked()
        forge.hold.set()  # a start may come while the sandbox is being prepared
        async with h.container.lock:
            assert await prepared_sandbox.take(h.ports, h.container, wanted(h)) is forge.monitors[0]
        await trio.sleep(5)
        assert not forge.monitors[0].gone.is_set() and len(forge.monitors) == 1
        assert await prepared_sandbox.take(h.ports, h.container, wanted(h)) is None

    with_engine_fixture(tmp_path, monkeypatch, body)


def test_outdated_prepared_sandbox_is_ended_before_the_start(tmp_path, monkeypatch):
    async def body(h, forge):
        prepared_sandbox.begin(h.ports, h.container, wanted(h), FakeRuntime())
        await wait_all_tasks_blocked()
        assert await prepared_sandbox.take(h.ports, h.container, wanted(h, terminal=True)) is None
        assert forge.monitors[0].gone.is_set()
        prepared_sandbox.begin(h.ports, h.container, wanted(h), FakeRuntime())
        await wait_all_tasks_blocked()
        forge.monitors[1].is_over = True  # the administrator may have killed the monitor, for example
        assert await prepared_sandbox.take(h.ports, h.container, wanted(h)) is None

    with_engine_fixture(tmp_path, monkeypatch, body)


def test_unused_prepared_sandbox_is_ended_after_a_while(tmp_path, monkeypatch):
    async def body(h, forge):
        prepared_sandbox.begin(h.ports, h.container, wanted(h), FakeRuntime())
        await trio.sleep(3)
        assert forge.monitors[0].gone.is_set() and not h.ports.prepared_sandboxes and not os.listdir(h.paths.runs_root)

    with_engine_fixture(tmp_path, monkeypatch, body)


def test_prepared_sandbox_is_ended_when_its_container_is_removed(tmp_path, monkeypatch):
    async def body(h, forge):
        prepared_sandbox.begin(h.ports, h.container, wanted(h), FakeRuntime())
        await wait_all_tasks_blocked()
        await removal.remove(h.ports, h.container, force=False, volumes=False)
        assert forge.monitors[0].gone.is_set() and not os.listdir(h.paths.runs_root)

    with_engine_fixture(tmp_path, monkeypatch, body)


@pytest.mark.parametrize("error", [DriverError("no such layer"), OSError(28, "No space left on device")])
def test_failed_preparation_leaves_no_prepared_sandbox_for_the_start(tmp_path, monkeypatch, error):
    async def body(h, forge):
        forge.error = error
        prepared_sandbox.begin(h.ports, h.container, wanted(h), FakeRuntime())
        await wait_all_tasks_blocked()
        assert await prepared_sandbox.take(h.ports, h.container, wanted(h)) is None

    with_engine_fixture(tmp_path, monkeypatch, body)


def test_number_of_prepared_sandboxes_is_limited(tmp_path, monkeypatch):
    async def body(h, forge):
        for n in range(12):
            other = h.add(f"c{n}", f"{n:064}")
            prepared_sandbox.begin(h.ports, other, wanted(h), FakeRuntime())
        await wait_all_tasks_blocked()
        assert len(forge.monitors) == 8
        await trio.sleep(3)
        h.engine.networks.sandbox_kind = lambda mode: f"container:{'d' * 64}"
        await launch.begin(h.ports, h.container)
        assert not h.ports.prepared_sandboxes

    with_engine_fixture(tmp_path, monkeypatch, body)


def test_prepared_sandbox_is_ended_if_the_start_fails(tmp_path, monkeypatch):
    async def body(h, forge):
        monkeypatch.setattr(launch, "_wanted", lambda *of: wanted(h))
        h.engine.networks.plan_made = None
        prepared_sandbox.begin(h.ports, h.container, wanted(h), FakeRuntime())
        await wait_all_tasks_blocked()

        async def broken(*of):
            raise DriverError("port is already allocated")

        h.engine.networks.plan = broken
        with pytest.raises(DriverError, match="port is already allocated"):
            await lifecycle.start(h.ports, h.container)
        assert forge.monitors[0].gone.is_set() and h.container.run is None and not os.listdir(h.paths.runs_root)

    with_engine_fixture(tmp_path, monkeypatch, body)
