"""Health checks without containers: evaluation of results, the command, the output."""

import pytest
import trio
from engine_fixture import engine_fixture, run_fast
from msgspec import UNSET

from orlop_engine.containers.container import Run
from orlop_engine.containers.health import Health, Result, command
from orlop_engine.containers.probes import _duration, _Output, watch
from orlop_engine.containers.state import Phase, State
from orlop_engine.types.containers import ContainerConfig, Healthcheck

SECOND = 1_000_000_000


def result(health, code, at_s=0.0):
    start = health._began_ns + int(at_s * SECOND)
    return Result(start, start + SECOND, code, "")


def test_health_check_failures_are_counted_only_after_the_start_period_or_a_success():
    health = Health(Healthcheck(start_period=10 * SECOND, retries=2))
    for _ in range(5):
        health.judge(result(health, 1, 5))
    assert (health.status, health.streak) == ("starting", 0)
    health.judge(result(health, 1, 11))
    assert (health.status, health.streak) == ("starting", 1)
    health.judge(result(health, 2, 12))
    assert (health.status, health.streak) == ("unhealthy", 2)
    health.judge(result(health, 0, 13))
    assert (health.status, health.streak) == ("healthy", 0)


def test_health_check_failures_are_counted_after_a_success_within_the_start_period():
    health = Health(Healthcheck(start_period=10 * SECOND))
    health.judge(result(health, 0, 1))
    for streak, status in ((1, "healthy"), (2, "healthy"), (3, "unhealthy")):
        health.judge(result(health, 1, 2))
        assert (health.streak, health.status) == (streak, status)


def test_last_five_probe_results_are_kept():
    health = Health(Healthcheck())
    for code in range(7):
        health.judge(result(health, code))
    assert [each.code for each in health.results] == [2, 3, 4, 5, 6]


def test_interval_between_probes_depends_on_the_start_period():
    health = Health(Healthcheck(start_period=60 * SECOND))
    now = health._began_ns
    assert health.pause(now) == 5 * SECOND
    assert health.pause(now + 61 * SECOND) == 30 * SECOND
    health.judge(result(health, 0))
    assert health.pause(now) == 30 * SECOND
    assert Health(Healthcheck(interval=2 * SECOND)).pause(now) == 2 * SECOND
    quick = Health(Healthcheck(start_period=60 * SECOND, start_interval=SECOND, interval=9 * SECOND))
    assert quick.pause(quick._began_ns) == SECOND


def test_invalid_health_check_durations_of_images_are_replaced_by_defaults():
    for ns in (-1, 1, 999_999, -(10**400)):
        check = Healthcheck(interval=ns, timeout=ns, start_period=60 * SECOND, start_interval=ns, retries=-1)
        health = Health(check)
        assert (health.timeout, health.pause(health._began_ns)) == (30 * SECOND, 5 * SECOND)
        assert health.pause(health._began_ns + 61 * SECOND) == 30 * SECOND
        health.judge(result(health, 1, 61))
        assert health.status == "starting"
    huge = Health(Healthcheck(interval=10**400, timeout=10**400))
    assert huge.pause(huge._began_ns) / 1e9 == huge.timeout / 1e9 == (2**63 - 1) / 1e9


@pytest.mark.parametrize(
    "check",
    [
        Healthcheck(test=["CMD", "x"], interval=-5, timeout=-5, start_period=-5, start_interval=-5, retries=-5),
        Healthcheck(test=["CMD", "a\0b"]),
        Healthcheck(test=["CMD-SHELL"]),
        Healthcheck(test=[""]),
    ],
)
def test_probe_that_cannot_be_created_makes_the_container_unhealthy(tmp_path, monkeypatch, check):
    async def main():
        async with engine_fixture(tmp_path, None) as home:
            home.container.record.config.healthcheck = check
            home.container.record.state = State(Phase.RUNNING)
            home.container.run = run = Run(str(tmp_path))

            def fail(*args, **kwargs):
                raise ValueError("embedded null byte")

            monkeypatch.setattr(home.engine.execs, "create", fail)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch, home.ports, home.container, run)  # the check uses the default durations
                await trio.sleep(200)
                seen = home.container.health
                assert (seen.status, seen.results[-1].code) == ("unhealthy", -1)
                assert "embedded null byte" in seen.results[-1].output
                run.finished.set()

    run_fast(main)


@pytest.mark.parametrize(
    ("test", "shell", "expected"),
    [
        (None, UNSET, None),
        ([], UNSET, None),
        (["NONE"], UNSET, None),
        (["CMD", "/bin/check", "a b"], UNSET, ["/bin/check", "a b"]),
        (["CMD-SHELL", "a | b"], UNSET, ["/bin/sh", "-c", "a | b"]),
        (["CMD-SHELL", "a"], ["/bin/bash", "-ec"], ["/bin/bash", "-ec", "a"]),
    ],
)
def test_command_of_a_health_check_depends_on_its_first_word(test, shell, expected):
    assert command(ContainerConfig(healthcheck=Healthcheck(test=test), shell=shell)) == expected


def test_container_without_a_health_check_has_no_health_status():
    assert command(ContainerConfig()) is None


def frame(stream, text):
    return bytes((stream, 0, 0, 0)) + len(text).to_bytes(4, "big") + text


def test_output_of_a_probe_contains_stdout_and_stderr_without_frame_headers():
    data = frame(1, b"one\n") + frame(2, b"") + frame(2, b"two\n")
    for size in (1, 3, 7, 8, 100):
        output = _Output()
        for at in range(0, len(data), size):
            output._feed(data[at : at + size])
        assert output.text() == "one\ntwo\n"


def test_long_probe_output_is_truncated():
    output = _Output()
    output._feed(frame(1, b"x" * 4000) + frame(1, b"y" * 200))
    assert output.text() == "x" * 4000 + "y" * 96 + "..."


@pytest.mark.parametrize(
    ("ns", "text"),
    [(500_000_000, "500ms"), (SECOND, "1s"), (1_500_000_000, "1.5s"), (60 * SECOND, "1m0s"), (3661 * SECOND, "1h1m1s")],
)
def test_durations_are_formatted_as_in_go(ns, text):
    assert _duration(ns) == text
