"""Detection of monitors that do not answer: only requests to such monitors fail early."""

import math

import pytest
import trio
from engine_fixture import run_fast

from orlop_engine.processes.watchdog import PATIENCE, MonitorWatchdog
from orlop_sdk import Unavailable, linux

PID = 4242


class Case:
    """A watchdog and the monitor that it watches. If `deaf` is set, the monitor does not answer pings."""

    def __init__(self, nursery, monkeypatch):
        self.deaf, self.stopped, self.pings = False, False, 0
        monkeypatch.setattr(linux, "is_stopped", lambda pid: pid == PID and self.stopped)
        self.answers = MonitorWatchdog(PID, self.ping, nursery)

    async def ping(self):
        self.pings += 1
        if self.deaf:
            await trio.sleep_forever()
        self.answers.heard()

    async def fails_within(self, seconds, match):
        with trio.fail_after(seconds), pytest.raises(Unavailable, match=match):
            await self.answers.wait("run the exec", trio.sleep_forever)


def in_case(monkeypatch, test):
    async def main():
        async with trio.open_nursery() as nursery:
            await test(Case(nursery, monkeypatch))
            nursery.cancel_scope.cancel()

    run_fast(main)


def test_stopped_monitor_is_detected_and_the_error_says_how_to_resume_the_process(monkeypatch):
    async def test(case):
        case.stopped = True
        await case.fails_within(
            1.5, rf"cannot run the exec: its monitor \(pid {PID}\) is stopped; `kill -CONT {PID}` resumes it"
        )
        await case.fails_within(0.1, "docker kill and docker rm -f work without its monitor")
        assert case.answers.silent
        case.stopped = False
        assert not case.answers.silent

    in_case(monkeypatch, test)


def test_requests_to_a_monitor_that_was_found_hanging_fail_immediately(monkeypatch):
    async def test(case):
        case.deaf = True
        await case.fails_within(PATIENCE + 2, "does not answer")
        await case.fails_within(0.1, "does not answer")
        case.answers.heard()  # the monitor answers late
        assert not case.answers.silent

        async def answer():
            await trio.sleep(1)
            return 7

        assert await case.answers.wait("run the exec", answer) == 7

    in_case(monkeypatch, test)


def test_long_request_to_a_responsive_monitor_is_not_interrupted(monkeypatch):
    async def test(case):
        async def answer():
            await trio.sleep(300)
            return 7

        assert await case.answers.wait("run the exec", answer) == 7
        assert case.pings > 10 and not case.answers.silent

    in_case(monkeypatch, test)


def test_monitor_is_not_considered_silent_during_the_work_of_a_request(monkeypatch):
    async def test(case):
        case.deaf = True
        began = trio.current_time()
        with trio.fail_after(60), pytest.raises(Unavailable, match="does not answer"):
            await case.answers.wait("start the container", trio.sleep_forever, busy=15.0)
        assert 15 + PATIENCE / 2 <= trio.current_time() - began < 15 + PATIENCE + 2

    in_case(monkeypatch, test)


def test_monitor_that_has_sent_data_since_the_request_is_not_considered_silent(monkeypatch):
    async def test(case):
        asked_at = trio.current_time()
        await trio.sleep(5)
        case.answers.heard()
        case.answers.suspect(asked_at)
        assert not case.answers.silent
        case.answers.suspect(math.inf)
        assert case.answers.silent

    in_case(monkeypatch, test)


def test_monitor_is_not_pinged_while_no_request_waits(monkeypatch):
    async def test(case):
        await case.answers.wait("ask", trio.lowlevel.checkpoint)
        await trio.sleep(60)
        case.stopped = True
        assert case.pings == 0 and not case.answers._looking and not case.answers.silent

    in_case(monkeypatch, test)
