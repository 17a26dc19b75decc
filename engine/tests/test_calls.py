"""Calls of hostile plugins through `Gate`. If a plugin hangs, raises or returns a wrong answer, only its caller gets an
error."""

import logging
import threading

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

from orlop_engine.calls import DEADLINE, FAULTS, LONGEST_DELAY, Gate, asked, guard
from orlop_kernel import abandoned
from orlop_sdk import (
    Command,
    Conflict,
    DeadlineExceeded,
    DriverError,
    LogCapabilities,
    LogDriver,
    NotFound,
    Runtime,
    RuntimeCheckpoints,
    RuntimeContext,
    RuntimeFeatures,
    Storage,
    StorageAudit,
    StorageContext,
    Unavailable,
    Usage,
    Volume,
    VolumeCapabilities,
    VolumeDriver,
)
from orlop_sdk.testing import FakeLog, FakeRuntime, FakeStorage

LABEL = 'volume driver "x"'


RUNTIME = RuntimeContext("x", "", "/r")
VOLUME = Volume("v", "/v")


class Sound:
    """Implements VolumeDriver."""

    capabilities = VolumeCapabilities()

    async def create(self, name, options):
        return VOLUME

    async def remove(self, name):
        pass

    async def get(self, name):
        return VOLUME

    async def mounts(self, name):
        return ()

    async def usage(self, name):
        return Usage(0)

    async def names(self):
        return frozenset({"v"})


class Hostile(Sound):
    """A driver whose `get` calls `behave`."""

    def __init__(self, behave):
        self.behave = behave

    async def get(self, name):
        return await self.behave(name)


def volume(behave):
    gate = Gate(LABEL)
    return gate, guard(gate, Hostile(behave), VolumeDriver)


def fast(main):
    trio.run(main, clock=MockClock(autojump_threshold=0))


async def hang(name):
    await trio.sleep_forever()


# --- deadlines --------------------------------------------------------------------------------------------------------


def test_hanging_driver_call_ends_at_its_deadline():
    async def main():
        gate, driver = volume(hang)
        with pytest.raises(DeadlineExceeded, match='cannot get: volume driver "x" gave no answer in 60 s'):
            await driver.get("v")
        assert trio.current_time() == pytest.approx(DEADLINE)
        assert gate.failures == {"deadline": 1} and gate.abandoned == 0

    fast(main)


def test_driver_call_that_ignores_cancellation_is_abandoned_after_its_deadline(caplog):
    caplog.set_level(logging.INFO)
    released = trio.Event()

    async def shielded(name):
        with trio.CancelScope(shield=True):
            await released.wait()
        return "late"

    async def main():
        gate, driver = volume(shielded)
        with pytest.raises(DeadlineExceeded):
            await driver.get("v")
        assert DEADLINE <= trio.current_time() <= DEADLINE + 2
        assert gate.abandoned == 1 and abandoned.running() == 1
        released.set()
        await trio.testing.wait_all_tasks_blocked()
        assert gate.abandoned == 0 and abandoned.running() == 0

    fast(main)
    told = [record.message for record in caplog.records if "the call get" in record.message]
    assert len(told) == 2 and "is abandoned" in told[0] and "has now ended" in told[1]


def test_driver_call_that_blocks_a_thread_is_abandoned():
    released = threading.Event()

    async def blocking(name):
        await trio.to_thread.run_sync(released.wait)
        raise OSError("nobody hears this")

    async def main():
        gate = Gate(LABEL, seconds=0.01)
        driver = guard(gate, Hostile(blocking), VolumeDriver)
        try:
            with trio.fail_after(5):
                with pytest.raises(DeadlineExceeded):
                    await driver.get("v")
            assert gate.abandoned == 1
        finally:
            released.set()
        while gate.abandoned:  # noqa: ASYNC110 - it is a thread that is waited for
            await trio.sleep(0.001)

    trio.run(main)


def test_answer_of_a_driver_within_the_grace_period_is_used():
    async def slow(name):
        with trio.CancelScope(shield=True):
            await trio.sleep(DEADLINE + 0.5)
        return VOLUME

    async def main():
        gate, driver = volume(slow)
        assert (await driver.get("v")).name == "v"
        assert not gate.failures

    fast(main)


# --- cancellation -----------------------------------------------------------------------------------------------------


def test_cancellation_of_the_caller_cancels_the_driver_call_and_waits_for_its_end():
    undone = []

    async def tidy(name):
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(3)
            undone.append(name)

    async def main():
        gate, driver = volume(tidy)
        with trio.move_on_after(1) as scope:
            await driver.get("v")
        assert scope.cancelled_caught and undone == ["v"] and trio.current_time() == pytest.approx(4)
        assert not gate.failures and not gate.abandoned

    fast(main)


def test_a_cancelled_caller_waits_no_longer_than_the_deadline():
    released = trio.Event()

    async def shielded(name):
        with trio.CancelScope(shield=True):
            await released.wait()

    async def main():
        gate, driver = volume(shielded)
        with trio.move_on_after(1) as scope:
            await driver.get("v")
        assert scope.cancelled_caught and trio.current_time() == pytest.approx(DEADLINE)
        assert gate.abandoned == 1
        released.set()

    fast(main)


def test_result_of_a_completed_call_is_returned_to_a_cancelled_caller():
    """Without the result, the caller could not undo the call."""

    async def finish(name):
        with trio.CancelScope(shield=True):
            await trio.sleep(3)
        return VOLUME

    async def main():
        _, driver = volume(finish)
        got = []
        with trio.move_on_after(1) as scope:
            got.append(await driver.get("v"))
            await trio.lowlevel.checkpoint()
        assert got and scope.cancelled_caught

    fast(main)


# --- exceptions -------------------------------------------------------------------------------------------------------

RAISED = [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), KeyError("v"), BaseExceptionGroup("", [SystemExit(1)])]


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
def test_exception_of_an_async_driver_method_becomes_a_driver_error(error):
    async def broken(name):
        await trio.lowlevel.checkpoint()
        raise error

    async def main():
        gate, driver = volume(broken)
        with pytest.raises(DriverError, match='cannot get: volume driver "x" failed') as caught:
            await driver.get("v")
        assert caught.value.__cause__ is error and gate.failures == {"exception": 1}

    fast(main)


def test_system_exit_in_a_drivers_thread_becomes_a_driver_error():
    def leave():
        raise SystemExit(1)

    async def broken(name):
        await trio.to_thread.run_sync(leave)

    async def main():
        with pytest.raises(DriverError, match="SystemExit"):
            await volume(broken)[1].get("v")

    trio.run(main)


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
def test_exceptions_of_synchronous_driver_methods_become_driver_errors(error):
    class Broken(FakeLog):
        def validate(self, options):
            raise error

    driver = guard(Gate('log driver "x"'), Broken(), LogDriver)
    with pytest.raises(DriverError, match='cannot validate: log driver "x" failed'):
        driver.validate({})
    with pytest.raises(DriverError, match='cannot validate: log driver "x" failed'):
        trio.run(asked, driver.validate, {})


@pytest.mark.parametrize("is_own", [False, True], ids=["other author", "this project"])
def test_synchronous_methods_run_on_threads_only_for_third_party_plugins(is_own):
    found = []

    class Asked(FakeLog):
        def validate(self, options):
            found.append(threading.get_ident())

    gate = Gate('log driver "x"')
    gate.is_own = is_own
    trio.run(asked, guard(gate, Asked(), LogDriver).validate, {})
    assert (found == [threading.get_ident()]) is is_own


def test_properties_of_a_plugin_are_read_only_once():
    class Moody(FakeLog):
        reads = 0

        @property
        def capabilities(self):
            self.reads += 1
            return LogCapabilities(readable=not self.reads > 2)

    driver = guard(Gate("x"), Moody(), LogDriver)
    first = driver.capabilities
    assert all(driver.capabilities is first for _ in range(5))


def test_errors_defined_by_the_plugin_sdk_are_passed_on():
    async def taken(name):
        raise ExceptionGroup("teardown", [NotFound("no such volume")])

    async def other(name):
        raise Conflict("in use")

    async def main():
        with pytest.raises(NotFound, match="no such volume"):
            await volume(taken)[1].get("v")
        gate, driver = volume(other)
        with pytest.raises(Conflict, match="in use"):
            await driver.get("v")
        assert not gate.failures

    fast(main)


def test_exceptions_of_log_readers_become_driver_errors():
    class Reader:
        def read(self):
            raise SystemExit

        def fileno(self):
            return 1

        def close(self):
            pass

    class Log(FakeLog):
        def open_reader(self, info, options, query):
            return Reader()

    reader = guard(Gate("x"), Log(), LogDriver).open_reader(None, {}, None)
    with pytest.raises(DriverError, match="SystemExit"):
        reader.read()


# --- objects ----------------------------------------------------------------------------------------------------------


class _Lacking:
    capabilities = VolumeCapabilities()


class _Wrong(Sound):
    async def create(self, name): ...


class _Demanding(Sound):
    async def create(self, name, options, also): ...


class _Async(FakeLog):
    async def validate(self, options): ...


class _Blunt(Sound):
    capabilities = None


@pytest.mark.parametrize(
    ("made", "protocol", "sentence"),
    [
        (None, VolumeDriver, "its factory returned None, not a VolumeDriver"),
        (_Lacking(), VolumeDriver, "_Lacking lacks `create` of VolumeDriver"),
        (_Wrong(), VolumeDriver, r"_Wrong.create\(name\) does not take the arguments of VolumeDriver.create"),
        (_Demanding(), VolumeDriver, "does not take the arguments"),
        (_Async(), LogDriver, "_Async.validate is async, LogDriver.validate is not"),
        (_Blunt(), VolumeDriver, "_Blunt.capabilities is of type NoneType, not VolumeCapabilities"),
    ],
)
def test_plugin_object_that_does_not_implement_its_protocol_is_refused(made, protocol, sentence):
    with pytest.raises(DriverError, match=f"cannot use the driver: .*{sentence}"):
        guard(Gate("the driver"), made, protocol)


def test_guarded_plugin_has_only_the_members_of_its_protocols(tmp_path):
    fake = FakeStorage(StorageContext(str(tmp_path)))
    storage = guard(Gate("x"), fake, Storage, StorageAudit)
    assert isinstance(storage, Storage) and isinstance(storage, StorageAudit) == isinstance(fake, StorageAudit)
    runtime = guard(Gate("x"), FakeRuntime(RUNTIME), Runtime, RuntimeFeatures, RuntimeCheckpoints)
    assert isinstance(runtime, Runtime) and isinstance(runtime.version(), Command)
    for optional in (RuntimeFeatures, RuntimeCheckpoints):
        assert isinstance(runtime, optional) == isinstance(FakeRuntime(RUNTIME), optional)
    assert not hasattr(guard(Gate("x"), Hostile(hang), VolumeDriver), "behave")


def test_driver_result_of_a_wrong_type_raises_a_driver_error():
    async def nothing(name):
        return None

    class Mute(FakeRuntime):
        def version(self):
            return "runc 1.2"

    async def main():
        gate, driver = volume(nothing)
        with pytest.raises(DriverError, match='cannot get: volume driver "x" returned NoneType, not Volume'):
            await driver.get("v")
        assert gate.failures == {"exception": 1}

    fast(main)
    with pytest.raises(DriverError, match="cannot version: x returned str, not Command"):
        guard(Gate("x"), Mute(RUNTIME), Runtime).version()


# --- circuit breaker --------------------------------------------------------------------------------------------------


def test_circuit_breaker_opens_after_missed_deadlines(caplog):
    caplog.set_level(logging.INFO)
    asked, answers = [], []

    async def behave(name):
        asked.append(trio.current_time())
        if not answers:
            await trio.sleep_forever()
        return VOLUME

    async def main():
        gate, driver = volume(behave)
        for _ in range(3):
            assert not gate.degraded
            with pytest.raises(DeadlineExceeded):
                await driver.get("v")
        began = trio.current_time()
        with pytest.raises(
            Unavailable, match='cannot get: volume driver "x" did not answer 3 calls in a row; it is called again in 1 s'
        ):
            await driver.get("v")
        assert gate.degraded and trio.current_time() == began and len(asked) == 3
        delay = 1.0
        for _ in range(8):
            await trio.sleep(delay - 0.1)
            with pytest.raises(Unavailable):
                await driver.get("v")
            await trio.sleep(0.2)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trial, driver)
                await trio.sleep(1)
                with pytest.raises(Unavailable, match="it is being called again"):  # only one trial is made at a time
                    await driver.get("v")
            delay = min(2 * delay, LONGEST_DELAY)
        answers.append(True)
        await trio.sleep(LONGEST_DELAY)
        assert (await driver.get("v")).name == "v" and not gate.degraded
        assert (await driver.get("v")).name == "v"

    async def trial(driver):
        with pytest.raises(DeadlineExceeded):
            await driver.get("v")

    fast(main)
    told = [record.message for record in caplog.records]
    assert len(told) == 2 and "did not answer 3 calls in a row" in told[0] and "answers again" in told[1]


def test_circuit_breaker_counts_only_consecutive_failures():
    slow = [True, True, False, True, True]

    async def behave(name):
        if slow.pop(0):
            await trio.sleep_forever()
        raise NotFound("an answer, too")

    async def main():
        gate, driver = volume(behave)
        while slow:
            with pytest.raises((DeadlineExceeded, NotFound)):
                await driver.get("v")
        assert not gate.degraded

    fast(main)


@pytest.mark.parametrize("fault", [KeyError("bug"), ValueError("bug"), SystemExit(3), None], ids=repr)
def test_circuit_breaker_opens_after_unexpected_exceptions(caplog, fault):
    """Answers of a wrong type count, too: None is not a `Volume`."""
    caplog.set_level(logging.INFO)
    faulty, calls = [True], []

    async def behave(name):
        calls.append(name)
        if not faulty:
            return VOLUME
        if fault is None:
            return None
        raise fault

    async def main():
        gate, driver = volume(behave)
        for _ in range(FAULTS):
            assert not gate.degraded
            with pytest.raises(DriverError):
                await driver.get("v")
        with pytest.raises(Unavailable, match='volume driver "x" failed in 5 calls in a row; it is called again in 1 s'):
            await driver.get("v")
        assert len(calls) == FAULTS == gate.failures["exception"]
        await trio.sleep(1.1)
        with pytest.raises(DriverError):  # the trial
            await driver.get("v")
        with pytest.raises(Unavailable, match="failed in 6 calls in a row; it is called again in 2 s"):
            await driver.get("v")
        await trio.sleep(2.1)
        faulty.clear()
        assert await driver.get("v") == VOLUME and not gate.degraded

    fast(main)
    told = [record.message for record in caplog.records if record.name == "orlop.drivers"]
    assert len(told) == 2 and "failed in 5 calls in a row" in told[0] and "answers again" in told[1]


@pytest.mark.parametrize("error", [NotFound("no v"), OSError(28, "No space left on device")], ids=repr)
def test_errors_about_the_request_or_the_disk_do_not_open_the_circuit_breaker(error):
    async def behave(name):
        raise error

    async def main():
        gate, driver = volume(behave)
        for _ in range(3 * FAULTS):
            with pytest.raises((NotFound, DriverError)):
                await driver.get("v")
        assert not gate.degraded

    fast(main)


def test_successful_call_between_exceptions_keeps_the_circuit_breaker_closed():
    async def behave(name):
        raise KeyError(name)

    async def main():
        gate, driver = volume(behave)
        for _ in range(FAULTS):
            for _ in range(FAULTS - 1):
                with pytest.raises(DriverError):
                    await driver.get("v")
            assert await driver.names() == {"v"}
        assert not gate.degraded

    fast(main)


def test_call_from_a_thread_is_admitted_after_the_delay_of_an_open_circuit_breaker():
    """A thread cannot read trio's clock, which begins at a random time."""

    class Log(FakeLog):
        broken = True

        def path(self, info):
            if self.broken:
                raise KeyError("bug")
            return "/log"

    async def main():
        gate = Gate("log driver")
        plugin = Log()
        driver = guard(gate, plugin, LogDriver)
        for _ in range(FAULTS):
            with pytest.raises(DriverError):
                await trio.to_thread.run_sync(driver.path, None)
        with pytest.raises(Unavailable):
            await trio.to_thread.run_sync(driver.path, None)
        plugin.broken = False
        gate._retry_at -= 2  # as if two seconds had passed
        assert await trio.to_thread.run_sync(driver.path, None) == "/log"

        gate._missed = 3
        gate._retry_at = trio.current_time() + 1000  # a time of trio's clock
        gate._now()
        with pytest.raises(Unavailable, match=r"again in \d{3,4} s"):
            await trio.to_thread.run_sync(driver.path, None)
        gate._retry_at = trio.current_time() - 1
        assert await trio.to_thread.run_sync(driver.path, None) == "/log"

    trio.run(main)


def test_cancelled_trial_call_leaves_the_circuit_breaker_open():
    async def main():
        _, driver = volume(hang)
        for _ in range(3):
            with pytest.raises(DeadlineExceeded):
                await driver.get("v")
        await trio.sleep(1)
        with trio.move_on_after(1):
            await driver.get("v")
        with pytest.raises(DeadlineExceeded):  # this call is the next trial, so it does not fail immediately
            await driver.get("v")

    fast(main)
