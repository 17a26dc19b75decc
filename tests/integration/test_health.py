"""Health checks in real containers, with the real client."""

import json

import pytest
from tests.integration.engine import BUSYBOX, until

pytestmark = pytest.mark.root

_FAST = ("--health-interval", "100ms", "--health-retries", "2")


def health(engine, name):
    return json.loads(engine.docker("inspect", "-f", "{{json .State.Health}}", name).out)


def status(engine, name):
    return (health(engine, name) or {}).get("Status")


def test_container_becomes_healthy_unhealthy_and_healthy_again(engine):
    probe = "test ! -e /ill && echo well || { echo ill >&2; exit 3; }"
    engine.ok("run", "-d", "--name", "checked", *_FAST, "--health-cmd", probe, BUSYBOX, "sleep", "1000")
    assert status(engine, "checked") in ("starting", "healthy")  # on an emulated machine, "starting" may have passed
    until(lambda: status(engine, "checked") == "healthy")
    assert "(healthy)" in engine.docker("ps", "--filter", "health=healthy", "--format", "{{.Status}}").out
    engine.docker("exec", "checked", "touch", "/ill")
    until(lambda: status(engine, "checked") == "unhealthy")
    found = health(engine, "checked")
    assert found["FailingStreak"] >= 2 and len(found["Log"]) <= 5
    assert (found["Log"][-1]["ExitCode"], found["Log"][-1]["Output"]) == (3, "ill\n")
    engine.docker("exec", "checked", "rm", "/ill")
    until(lambda: status(engine, "checked") == "healthy")
    engine.docker("stop", "-t", "0", "checked")
    assert status(engine, "checked") == "unhealthy"
    events = engine.events(container="checked")
    assert [line for line in events if line.startswith("health_status")] == [
        "health_status: healthy",
        "health_status: unhealthy",
        "health_status: healthy",
    ]
    assert any(line.startswith("exec_create: /bin/sh -c test") for line in events)


def test_health_check_that_hangs_is_killed(engine):
    engine.ok(
        *("run", "-d", "--name", "hung", "--health-interval", "50ms", "--health-retries", "1", "--health-timeout", "300ms"),
        *("--health-cmd", "echo begun; exec sleep 777", BUSYBOX, "sleep", "1000"),
    )
    until(lambda: status(engine, "hung") == "unhealthy")
    last = health(engine, "hung")["Log"][-1]
    assert (last["ExitCode"], last["Output"]) == (-1, "Health check exceeded timeout (300ms): begun\n")
    for _ in range(5):
        assert engine.ok("top", "hung").count("sleep 777") <= 1


def test_container_is_unhealthy_if_its_health_check_cannot_run(engine):
    engine.ok(
        *("run", "-d", "--name", "lacking", *_FAST, "--health-cmd", "exit 0", "--entrypoint", "sleep"),
        *("-e", "X=1", BUSYBOX, "1000"),
    )
    until(lambda: status(engine, "lacking") == "healthy")
    engine.ok("run", "-d", "--name", "unchecked", "--no-healthcheck", BUSYBOX, "sleep", "1000")
    assert health(engine, "unchecked") is None
    body = {
        "Image": BUSYBOX,
        "Cmd": ["sleep", "1000"],
        "Healthcheck": {"Test": ["CMD", "/nosuch"], "Interval": 50_000_000, "Retries": 1},
    }
    _, made = engine.api("POST", "/containers/create?name=broken", body)
    engine.ok("start", made["Id"])
    until(lambda: status(engine, "broken") == "unhealthy")
    last = health(engine, "broken")["Log"][-1]
    assert last["ExitCode"] == -1 and "/nosuch" in last["Output"]


def test_health_checks_continue_after_a_restart_of_the_daemon(fresh):
    engine = fresh({"live-restore": True})
    engine.ok("run", "-d", "--name", "lives", *_FAST, "--health-cmd", "true", BUSYBOX, "sleep", "1000")
    until(lambda: status(engine, "lives") == "healthy")
    engine.kill()
    engine.start()
    until(lambda: status(engine, "lives") == "healthy")
