"""A driver that cannot be loaded: only the operation that needs it fails, with the reason."""

import threading
from types import SimpleNamespace

import pytest
import trio

from orlop_engine.config import Config
from orlop_engine.drivers import Drivers
from orlop_sdk import DeadlineExceeded, DriverError, InvalidParameter, NotFound, Unavailable, discovery
from orlop_sdk.testing import FakeLog, FakeNetwork, FakeRuntime, FakeStorage, FakeVolume


@pytest.fixture
def made(tmp_path, monkeypatch):
    """An object with the loaded `drivers`, and with `make`, the factory of the driver `mine` of each kind."""
    found = SimpleNamespace(drivers=Drivers(Config(exec_root=str(tmp_path), data_root=str(tmp_path))), make=None)

    def find(kind, name):
        if name == "unknown":
            raise NotFound("not installed")
        return discovery.Factory(kind, name, lambda *context: found.make(*context), 1, "mine", "1")

    monkeypatch.setattr(discovery, "find", find)
    monkeypatch.setattr("orlop_engine.drivers.shutil.which", lambda path: path)
    return found


def leave(*context):
    raise SystemExit(1)


def nothing(*context):
    return None


def lacking(*context):
    return object()


@pytest.mark.parametrize(
    ("make", "cause"), [(leave, "SystemExit: 1"), (nothing, "its factory returned None"), (lacking, "object lacks `capab")]
)
@pytest.mark.parametrize("kind", ["storage", "log", "network", "volume", "runtime"])
def test_factory_that_returns_no_driver_is_refused(made, kind, make, cause):
    async def main():
        made.make = make
        name = "runc" if kind == "runtime" else "mine"
        for _ in range(2):
            with pytest.raises(DriverError, match=f'cannot use {kind}.* "{name}": {cause}'):
                got = getattr(made.drivers, kind)(name)
                if kind != "storage":
                    await got
        assert not made.drivers.loaded

    trio.run(main)


@pytest.mark.parametrize("kind", ["network", "volume"])
def test_only_operations_that_need_the_driver_fail_when_a_driver_factory_hangs(made, kind):
    released = threading.Event()

    async def main():
        made.make = lambda *context: released.wait()
        gate = made.drivers._gate(kind, "mine")
        gate.seconds = 0.01
        try:
            for _ in range(3):
                with pytest.raises(DeadlineExceeded, match=f'cannot use {kind} driver "mine": it was not loaded in 0.01 s'):
                    await getattr(made.drivers, kind)("mine")
            assert 0 < gate.abandoned <= 3  # on a busy machine, a thread may not have started
            with pytest.raises(Unavailable, match="it is called again in 1 s"):
                await getattr(made.drivers, kind)("mine")
        finally:
            released.set()
        while gate.abandoned:  # noqa: ASYNC110 - threads are waited for
            await trio.sleep(0.001)

    trio.run(main)


def test_cancelled_trial_call_of_a_driver_does_not_block_later_calls(made):
    released = threading.Event()

    async def main():
        made.make = lambda context: released.wait() or FakeVolume(context)
        gate = made.drivers._gate("volume", "mine")
        gate.seconds = 0.01
        for _ in range(3):
            with pytest.raises(DeadlineExceeded):
                await made.drivers.volume("mine")
        gate._retry_at = 0
        gate.seconds = 60
        begun = threading.Event()
        made.make = lambda context: begun.set() or released.wait() or FakeVolume(context)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.drivers.volume, "mine")
            await trio.to_thread.run_sync(begun.wait)
            nursery.cancel_scope.cancel()
        assert gate.abandoned == 4
        released.set()
        made.make = FakeVolume
        await made.drivers.volume("mine")
        assert not gate.degraded

    trio.run(main)


@pytest.mark.parametrize("start", [trio.to_thread, threading.Thread])
def test_failure_to_start_a_thread_is_reported(made, monkeypatch, start):
    async def refused(*_, **options):
        refuse()

    def refuse(*_):
        raise RuntimeError("can't start new thread")

    async def main():
        made.make = lambda *context: FakeLog()
        if start is threading.Thread:
            monkeypatch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(DriverError, match=r"cannot use storage driver .mine.: can't start new thread"):
                made.drivers.storage("mine")
        else:
            monkeypatch.setattr(trio.to_thread, "run_sync", refused)
            with pytest.raises(DriverError, match=r"cannot use volume driver .mine.: can't start new thread"):
                await made.drivers.volume("mine")
        assert all(gate.abandoned == 0 for gate in made.drivers.gates.values())

    trio.run(main)
    monkeypatch.undo()


@pytest.mark.parametrize("kind", ["log", "network", "runtime", "volume"])
def test_drivers_are_made_and_checked_on_a_thread(made, kind):
    """Reading a driver's properties also runs code of the driver."""
    threads = []
    fake = {"log": FakeLog, "network": FakeNetwork, "runtime": FakeRuntime, "volume": FakeVolume}[kind]

    class Watched(fake):
        @property
        def capabilities(self):
            threads.append(threading.current_thread())
            return super().capabilities if isinstance(fake.__dict__.get("capabilities"), property) else fake.capabilities

    def make(*context):
        threads.append(threading.current_thread())
        return Watched(*context) if kind in ("runtime", "volume") else Watched()

    async def main():
        made.make = make
        driver = await getattr(made.drivers, kind)("runc" if kind == "runtime" else "mine")
        count = len(threads)
        assert driver.capabilities and len(threads) == count > 1
        assert threading.main_thread() not in threads

    trio.run(main)


def test_callers_that_wait_until_another_caller_has_loaded_the_driver_have_a_deadline(made):
    released = threading.Event()

    async def main():
        made.make = lambda *context: released.wait()
        made.drivers._gate("volume", "mine").seconds = 0.05

        async def use():
            with pytest.raises((DeadlineExceeded, Unavailable)):
                await made.drivers.volume("mine")

        try:
            with trio.fail_after(20):
                async with trio.open_nursery() as nursery:
                    for _ in range(30):
                        nursery.start_soon(use)
            assert made.drivers.gates["volume", "mine"].abandoned <= 3
        finally:
            released.set()

    trio.run(main)


def test_concurrent_callers_share_one_driver_object(made):
    count = []

    def make(context):
        count.append(context)
        return FakeNetwork()

    async def main():
        made.make = make
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(made.drivers.network, "mine")
        assert len(count) == 1

    trio.run(main)


def test_request_for_a_driver_that_is_not_installed_leaves_no_state(made):
    async def main():
        for kind in ("network", "volume"):
            with pytest.raises(NotFound):
                await getattr(made.drivers, kind)("unknown")
        with pytest.raises(InvalidParameter):
            await made.drivers.log("unknown")
        assert not made.drivers.gates and not made.drivers._making

    trio.run(main)


def test_every_network_driver_is_closed(made):
    closed = []

    class Network(FakeNetwork):
        async def close(self):
            closed.append(self)
            raise SystemExit

    async def main():
        made.make = lambda context: Network()
        await made.drivers.network("mine")
        await made.drivers.network("other")
        await made.drivers.close()
        assert len(closed) == 2

    trio.run(main)


def test_info_warns_of_a_driver_that_does_not_answer(made):
    async def main():
        made.make = lambda context: FakeVolume(context) if hasattr(context, "root") else FakeStorage(context)
        await made.drivers.volume("mine")
        assert list(made.drivers.degraded()) == []
        gate = made.drivers.gates["volume", "mine"]
        gate.seconds = 0.001
        for _ in range(3):
            with pytest.raises(DeadlineExceeded):
                await gate.call("get", trio.sleep_forever, (), {})
        (sentence,) = made.drivers.degraded()
        assert sentence.startswith('volume driver "mine" did not answer 3 calls in a row; it is called again in ')

    trio.run(main)


@pytest.mark.parametrize("where", ["import", "hook"])
def test_plugin_that_raises_system_exit_is_reported_as_a_driver_error(monkeypatch, where):
    class Plugin:
        @discovery.hooks.hookimpl
        def orlop_log(self, register):
            raise SystemExit(2)

    class Point:
        dist = None

        def load(self):
            return leave() if where == "import" else Plugin()

    point = Point()
    monkeypatch.setattr(discovery, "_entry_points", lambda *_: {"x": point})
    with pytest.raises(DriverError, match='cannot load log driver "x": SystemExit'):
        discovery.find("log", "x")


def test_system_exit_of_a_log_driver_is_reported_as_a_problem_of_the_configuration(monkeypatch, tmp_path):
    from orlop_engine import config_check

    class Log(FakeLog):
        def validate(self, options):
            raise SystemExit

    for make in (leave, Log):
        monkeypatch.setattr(discovery, "find", lambda kind, name, make=make: SimpleNamespace(make=make))
        (problem,) = config_check._log_driver(Config())
        assert "SystemExit" in problem.text
