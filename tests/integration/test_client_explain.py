"""`orlop explain` and other commands that Docker's client lacks, with real containers."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from typing import Any

import pytest
from tests.integration.engine import Engine, until

pytestmark = pytest.mark.root


def explained(engine: Engine, name: str, kind: str = "container") -> dict[str, Any]:
    (found,) = json.loads(engine.orlop("explain", "--format", "json", "--type", kind, name, check=0).out)
    return dict(found)


def lines(found: dict[str, Any], title: str) -> list[str]:
    return next((section["Lines"] for section in found["Sections"] if section["Title"] == title), [])


def test_explain_shows_that_a_container_exceeded_its_memory_limit(engine: Engine) -> None:
    engine.orlop("run", "--name", "hungry", "-m", "8m", "busybox", "sh", "-c", "x=a; while :; do x=$x$x; done")
    found = explained(engine, "hungry")
    assert found["Facts"]["Cause"] == "oom"
    assert "8MiB (OOM)" in lines(found, "Cause")[0]


def test_explain_shows_the_exit_code_the_last_log_lines_and_the_cause_of_an_exit(engine: Engine) -> None:
    engine.orlop("run", "--name", "ended", "busybox", "sh", "-c", "echo last words; exit 3")
    found = explained(engine, "ended")
    assert "with exit code 3" in found["Summary"]
    assert lines(found, "Last log lines") == ["last words"]
    engine.ok("run", "-d", "--name", "deaf", "busybox", "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done")
    until(lambda: "ready" in engine.ok("logs", "deaf"), "the program ignores SIGTERM")
    engine.ok("stop", "-t", "1", "deaf")
    assert "did not end after signal 15, so the daemon sent SIGKILL" in lines(explained(engine, "deaf"), "Cause")[0]


def test_explain_shows_which_process_uses_a_port(engine: Engine) -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
        assert engine.orlop("run", "-d", "--name", "late", "-p", f"{port}:80", "busybox", "sleep", "600").code == 125
        found = explained(engine, "late")
    assert found["Summary"].startswith("does not start")
    assert found["Facts"]["Ports"] == [{"Port": port, "Protocol": "tcp", "Pids": [os.getpid()]}]
    assert f"pid {os.getpid()} (for 80/tcp of the container)" in lines(found, "Ports")[0]
    engine.ok("run", "-d", "--name", "first", "-p", f"{port}:80", "busybox", "sleep", "600")
    assert lines(explained(engine, "late"), "Ports")[0].startswith(f"port {port} is held by container first")


def test_log_lines_of_several_containers_are_sorted_by_time(engine: Engine) -> None:
    """The order is compared with the timestamps, because a busy monitor may read a line late."""
    script = "for turn in 1 2 3 4; do echo $turn; sleep 0.2; done; echo problem >&2"
    for name in ("even", "odd"):
        engine.ok("run", "-d", "--name", name, "busybox", "sh", "-c", script)
    engine.ok("wait", "even", "odd")
    done = engine.orlop("logs", "-t", "even", "odd", check=0)
    shown = [line.split() for line in done.out.splitlines()]
    assert sorted((name, text) for name, _, _, text in shown) == [
        (name, turn) for name in ("even", "odd") for turn in "1234"
    ]
    assert [stamp for _, _, stamp, _ in shown] == sorted(stamp for _, _, stamp, _ in shown)
    assert sorted(line.split()[0] for line in done.err.splitlines()) == ["even", "odd"]
    followed = engine.orlop("logs", "-f", "--tail", "2", "even", "odd", check=0)
    assert sorted(followed.out.splitlines()) == ["even | 4", "odd  | 4"]


def test_orlop_tree_shows_a_container_below_each_of_its_networks(fresh: Callable[..., Engine]) -> None:
    engine = fresh({"shutdown-timeout": 3})
    for name in ("back", "front"):
        engine.ok("network", "create", name)
    labels = ("--label", "com.docker.compose.project=shop")
    engine.ok("run", "-d", "--name", "db", *labels, "--network", "back", "-v", "data:/v", "busybox", "sleep", "600")
    needs = ("--label", "com.docker.compose.depends_on=db:service_started:false")
    engine.ok("run", "-d", "--name", "web", *labels, *needs, "--network", "back", "busybox", "sleep", "600")
    engine.ok("network", "connect", "front", "web")
    engine.ok("run", "-d", "--name", "beside", "--network", "container:db", "busybox", "sleep", "600")
    shown = [line.split("   busybox")[0].rstrip() for line in engine.orlop("ps", "--tree", check=0).out.splitlines()]
    assert shown == [
        "project shop",
        "├── network back",
        "│   ├── db",
        "│   │   └── volume data at /v",
        "│   └── web",
        "│       └── needs db (started)",
        "└── network front",
        "    └── web",
        "no project",
        "└── network of container db",
        "    └── beside",
    ]


def test_wait_with_option_healthy_returns_when_the_health_check_succeeds(engine: Engine) -> None:
    check = ("--health-cmd", "test -e /ready", "--health-interval", "200ms", "--health-retries", "1000")
    engine.ok("run", "-d", "--name", "slow", *check, "busybox", "sh", "-c", "sleep 1; : >/ready; sleep 600")
    assert engine.orlop("wait", "--healthy", "slow", check=0).out == "slow\n"
    assert engine.ok("inspect", "-f", "{{.State.Health.Status}}", "slow") == "healthy"
    missing = engine.orlop("wait", "--healthy", "slwo")
    assert (missing.code, missing.err.splitlines()[-1]) == (1, "Did you mean 'slow'?")


def test_explain_lists_the_containers_that_use_a_volume_network_or_image(fresh: Callable[..., Engine]) -> None:
    engine = fresh({"shutdown-timeout": 3})
    engine.ok("network", "create", "back")
    script = "head -c 5000 /dev/zero >/v/x"
    engine.ok("run", "--name", "user", "--network", "back", "-v", "data:/v", "busybox", "sh", "-c", script)
    volume = explained(engine, "data", "volume")
    assert (volume["Facts"]["UsedBy"], volume["Facts"]["Size"]) == (["user"], 5000)
    assert explained(engine, "back", "network")["Facts"]["UsedBy"] == ["user"]
    assert explained(engine, "busybox", "image")["Facts"]["UsedBy"] == ["user"]
    removal = next(item["Command"] for item in explained(engine, "back", "network")["Next"])
    assert removal.split() == ["orlop", "network", "rm", "back"]
    engine.ok("rm", "user")
    engine.ok("network", "rm", "back")
