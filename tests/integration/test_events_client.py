"""Events, in Docker's order and with Docker's attributes, both live and from the history."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.integration.engine import Engine, until

pytestmark = pytest.mark.root


def happened(engine: Engine, name: str) -> list[str]:
    """The events of a container so far, including the events of its networks and volumes."""
    found = []
    for event in engine.all_events():
        attributes = event["Actor"]["Attributes"]
        own = engine_ids.get(name, "")
        if attributes.get("name") == name or attributes.get("container") == own or event["Actor"]["ID"] == name:
            found.append(f"{event['Type']} {event['Action']}")
    return found


engine_ids: dict[str, str] = {}


def test_start_stop_and_rm_emit_events_in_order(engine: Engine, name: str) -> None:
    script = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done"
    engine_ids[name] = engine.ok("run", "-d", "--name", name, "-v", f"{name}:/v", "busybox", "sh", "-c", script)
    until(lambda: engine.ok("logs", name) == "ready", "it traps")
    engine.ok("stop", name)
    engine.ok("rm", name)
    engine.ok("volume", "rm", name)
    assert happened(engine, name) == [
        "volume create",
        "container create",
        "network connect",
        "volume mount",
        "container start",
        "container kill",
        "network disconnect",
        "volume unmount",
        "container die",
        "container stop",
        "container destroy",
        "volume destroy",
    ]


def test_attached_docker_run_emits_events_in_order(engine: Engine, name: str) -> None:
    engine_ids[name] = ""
    engine.docker("run", "--rm", "--name", name, "busybox", "sh", "-c", "exit 3", check=3)
    until(lambda: "container destroy" in happened(engine, name), "it is removed")
    found = [event for event in happened(engine, name) if event.startswith("container")]
    assert found == ["container create", "container attach", "container start", "container die", "container destroy"]


def test_rm_force_emits_kill_die_and_destroy(engine: Engine, name: str) -> None:
    engine_ids[name] = engine.ok("run", "-d", "--name", name, "busybox", "sleep", "600")
    engine.ok("rm", "-f", name)
    assert happened(engine, name)[-4:] == ["container kill", "network disconnect", "container die", "container destroy"]


def test_container_events_have_the_attributes_of_the_container(engine: Engine, name: str) -> None:
    container = engine.ok("run", "-d", "--name", name, "-l", "role=test", "busybox", "sleep", "600")
    engine.ok("exec", name, "true")
    engine.ok("rename", name, f"{name}-new")
    engine.ok("kill", f"{name}-new")
    engine.ok("wait", f"{name}-new")
    found: dict[str, dict[str, Any]] = {
        event["Action"].partition(":")[0]: event for event in engine.all_events() if event["Actor"]["ID"] == container
    }
    assert found["start"]["Actor"]["Attributes"] == {"image": "busybox", "name": name, "role": "test"}
    assert found["start"]["scope"] == "local"
    assert found["start"]["status"] == "start"
    assert found["start"]["id"] == container
    assert found["start"]["from"] == "busybox"
    assert found["start"]["timeNano"] // 1_000_000_000 == found["start"]["time"]
    assert found["exec_create"]["Action"] == "exec_create: true "
    assert found["exec_die"]["Actor"]["Attributes"]["exitCode"] == "0"
    assert found["rename"]["Actor"]["Attributes"]["oldName"] == f"/{name}"
    assert found["kill"]["Actor"]["Attributes"]["signal"] == "9"
    assert found["die"]["Actor"]["Attributes"]["exitCode"] == "137"
    assert found["die"]["Actor"]["Attributes"]["execDuration"].isdigit()


def test_docker_events_applies_filters_and_format_to_the_stream(engine: Engine, name: str) -> None:
    name, other = f"live-{name}", f"other-{name}"  # cannot be a prefix of an ID
    filters = [f"--filter={one}" for one in (f"container={name}", "type=container", "event=start", "event=die")]
    watching = engine.background("events", "--since", "0", *filters, "--format", "{{.Action}} {{.Actor.Attributes.name}}")
    for one in (other, name):
        engine.ok("run", "-d", "--name", one, "busybox", "true")
        engine.ok("wait", one)
    assert watching.stdout is not None
    assert [watching.stdout.readline().decode() for _ in range(2)] == [f"start {name}\n", f"die {name}\n"]


def test_since_and_until_select_past_events(engine: Engine, name: str) -> None:
    engine.ok("run", "-d", "--name", name, "busybox", "sleep", "600")
    start = next(event for event in engine.all_events() if event["Action"] == "start" and name in str(event))
    at = f"{start['timeNano'] // 10**9}.{start['timeNano'] % 10**9:09d}"
    out = engine.ok("events", "--since", at, "--until", at, "--format", "{{json .}}")
    assert [json.loads(line)["Action"] for line in out.splitlines()] == ["start"]


def test_changes_of_images_and_networks_emit_events(engine: Engine, name: str) -> None:
    engine.ok("tag", "busybox", f"{name}:x")
    engine.ok("rmi", f"{name}:x")
    engine.ok("network", "create", f"n-{name}")
    engine.ok("network", "rm", f"n-{name}")
    found = [
        f"{event['Type']} {event['Action']}"
        for event in engine.all_events()
        if event["Actor"]["Attributes"].get("name") in (f"{name}:x", f"n-{name}")
    ]
    assert found in (
        ["image tag", "image untag", "network create", "network destroy"],
        ["image tag", "network create", "network destroy"],
    )
