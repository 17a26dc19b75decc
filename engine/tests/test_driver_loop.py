"""Event loops of plugins: async methods that block the loop, raise exceptions, are cancelled, or end the loop."""

from __future__ import annotations

import threading
import time

import pytest
import trio
import trio.lowlevel

from orlop_engine import calls
from orlop_engine.calls import Gate, guard
from orlop_engine.driver_loop import DriverLoop
from orlop_sdk import Conflict, DeadlineExceeded, DriverError, Volume, VolumeCapabilities, VolumeDriver

VOLUME = Volume("v", "/v")


class Mine:
    """A volume driver; `behave` is its `get`."""

    capabilities = VolumeCapabilities()

    def __init__(self, behave):
        self.behave = behave

    async def get(self, name):
        return await self.behave(name)

    async def create(self, name, options): ...
    async def remove(self, name): ...
    async def mounts(self, name): ...
    async def usage(self, name): ...
    async def names(self): ...


def driver(behave, seconds=60.0):
    gate = Gate('volume driver "x"', seconds)
    gate.loop = DriverLoop("x")
    return gate, guard(gate, Mine(behave), VolumeDriver)


def test_async_methods_of_a_driver_run_in_one_event_loop_on_another_thread():
    seen = []

    async def get(name):
        seen.append((threading.current_thread(), trio.lowlevel.current_trio_token()))
        await trio.lowlevel.checkpoint()
        return VOLUME

    async def main():
        _, mine = driver(get)
        assert await mine.get("v") == await mine.get("v") == VOLUME
        (thread, token), again = seen
        assert again == (thread, token)
        assert thread is not threading.current_thread() and token is not trio.lowlevel.current_trio_token()

    trio.run(main)


def test_method_that_blocks_its_loop_is_abandoned_and_the_daemons_loop_goes_on():
    over = threading.Event()

    async def get(name):
        if name == "bad":
            over.wait()
        return VOLUME

    async def main():
        gate, mine = driver(get, 0.05)
        with pytest.raises(DeadlineExceeded, match="cannot get"):
            await mine.get("bad")
        with pytest.raises(DeadlineExceeded):  # the loop is still blocked
            await mine.get("v")
        assert gate.abandoned == 2
        over.set()
        while gate.abandoned:  # noqa: ASYNC110 - threads are waited for
            await trio.sleep(0.001)
        gate.seconds = 60
        assert await mine.get("v") == VOLUME

    trio.run(main)  # its watchdog fails the test if the loop is blocked


def test_a_cancelled_caller_cancels_the_driver_method_and_waits_until_the_method_ends():
    cleaned = []

    async def get(name):
        try:
            await trio.sleep_forever()
        finally:
            cleaned.append(threading.current_thread())

    async def main():
        gate, mine = driver(get)
        with trio.move_on_after(0.05) as scope:
            await mine.get("v")
        assert scope.cancelled_caught and len(cleaned) == 1 and not gate.failures

    trio.run(main)


def test_result_of_a_method_that_ignores_the_cancellation_is_returned():
    async def get(name):
        with trio.CancelScope(shield=True):
            await trio.sleep(0.05)
        return VOLUME

    async def main():
        _, mine = driver(get)
        with trio.CancelScope() as scope:
            scope.cancel()
            assert await mine.get("v") == VOLUME

    trio.run(main)


@pytest.mark.parametrize(
    "error", [SystemExit(1), KeyboardInterrupt(), ValueError("x")], ids=lambda each: type(each).__name__
)
def test_exceptions_of_a_plugin_become_driver_errors_and_its_event_loop_goes_on(error):
    async def get(name):
        if name == "bad":
            raise error
        return VOLUME

    async def main():
        _, mine = driver(get)
        with pytest.raises(DriverError, match=f"cannot get.*{type(error).__name__}"):
            await mine.get("bad")
        assert await mine.get("v") == VOLUME

    trio.run(main)


def test_sdk_error_that_a_driver_raises_reaches_the_caller_unchanged():
    async def get(name):
        raise Conflict("in use")

    async def main():
        with pytest.raises(Conflict, match="in use"):
            await driver(get)[1].get("v")

    trio.run(main)


def test_plugin_that_ends_its_event_loop_gets_a_new_event_loop():
    async def get(name):
        if name == "bad":

            async def fail():
                raise RuntimeError

            trio.lowlevel.spawn_system_task(fail)
            await trio.sleep_forever()
        return VOLUME

    async def main():
        _, mine = driver(get)
        with trio.fail_after(30):
            with pytest.raises(DriverError, match="the plugin has ended its event loop"):
                await mine.get("bad")
            assert await mine.get("v") == VOLUME

    trio.run(main)


def test_daemon_that_stops_waits_only_briefly_for_cancelled_driver_calls(monkeypatch):
    """The daemon does not wait a minute for a driver that ignores its cancellation."""
    monkeypatch.setattr(calls, "STOPPING", 0.05)
    over = threading.Event()

    async def get(name):
        over.wait()

    async def main():
        gate, mine = driver(get)
        began = time.monotonic()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mine.get, "v")
            await trio.sleep(0.05)
            nursery.cancel_scope.cancel()
            gate.stop()
        assert time.monotonic() - began < 20 and gate.abandoned == 1
        with trio.move_on_after(0.05):  # calls that are cancelled later
            await mine.get("v")
        assert time.monotonic() - began < 20 and gate.abandoned == 2
        over.set()
        while gate.abandoned:  # noqa: ASYNC110 - threads are waited for
            await trio.sleep(0.001)

    trio.run(main)
