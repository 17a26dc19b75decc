"""`orlop run --dry-run` and `orlop create --dry-run`: compared with the containers that the same flags make."""

from __future__ import annotations

import json
import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from tests.integration.engine import Engine

pytestmark = pytest.mark.root

FLAGS = (
    *("--init", "-u", "nobody", "-e", "COLOUR=blue", "-w", "/work", "-m", "64m", "--cpus", "0.5", "--pids-limit", "50"),
    *("--ulimit", "nofile=100:200", "--cap-drop", "ALL", "--cap-add", "CHOWN", "--tmpfs", "/scratch:size=1m"),
    *("-v", "kept:/kept", "--read-only", "--security-opt", "no-new-privileges", "--sysctl", "net.ipv4.ip_forward=1"),
    *("--add-host", "other:192.0.2.1", "--ipc", "shareable", "--annotation", "a=b", "--restart", "on-failure:3"),
)


def planned(engine: Engine, *argv: str, check: int | None = 0, command: str = "run") -> dict[str, Any]:
    done = engine.orlop(command, "--dry-run", "--format", "json", *argv, check=check)
    assert done.out, done.err
    return dict(json.loads(done.out))


def real_spec(engine: Engine, name: str) -> Any:
    """The config.json of a running container, with the placeholders of a dry run."""
    ident = engine.ok("inspect", "-f", "{{.Id}}", name)
    text = (engine.exec_root / "run" / ident[:32] / "config.json").read_text()
    for value, placeholder in (
        (ident, "<container id>"),
        (ident[:32], "<first 32 digits of the container id>"),
        (ident[:12], "<first 12 digits of the container id>"),
    ):
        text = text.replace(value, placeholder)
    return json.loads(re.sub(r"/proc/\d+/fd/\d+", "<network namespace>", text))


def left(engine: Engine) -> dict[str, Any]:
    """All objects that a dry run must not change."""
    snapshots = sorted(path.name for path in (engine.data_root / "overlay2").glob("*"))
    return {
        "containers": engine.api("GET", "/containers/json?all=1"),
        "images": engine.api("GET", "/images/json?all=1"),
        "volumes": engine.api("GET", "/volumes"),
        "snapshots": snapshots,
        "directories": sorted(os.listdir(engine.data_root / "containers")),
        "runs": sorted(os.listdir(engine.exec_root / "run")),
        "mounts": sorted(line for line in Path("/proc/self/mounts").read_text().splitlines() if str(engine.home) in line),
    }


def test_dry_run_shows_the_runtime_spec_that_the_real_container_gets(engine: Engine) -> None:
    engine.ok("volume", "create", "kept")
    before = left(engine)
    flags = ("--name", "real", *FLAGS, "busybox", "sleep", "600")
    plan = planned(engine, "-d", *flags)
    assert left(engine) == before
    assert plan["Problems"] == []
    engine.ok("run", "-d", *flags)
    assert plan["Spec"] == real_spec(engine, "real")
    assert "<network namespace>" in plan["Placeholders"]
    assert plan["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}
    engine.ok("rm", "-f", "real")
    engine.ok("volume", "rm", "kept")


def test_dry_run_shows_the_real_runtime_spec_of_a_container_on_the_host_network(engine: Engine) -> None:
    flags = ("--network", "host", "--privileged", "--pid", "host", "busybox", "sleep", "600")
    plan = planned(engine, "--name", "hosted", *flags)
    engine.ok("run", "-d", "--name", "hosted", *flags)
    assert plan["Spec"] == real_spec(engine, "hosted")


def test_dry_run_creates_no_volume_and_no_directory(engine: Engine, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    before = left(engine)
    plan = planned(engine, "-v", "new:/new", "-v", "/anonymous", "-v", f"{missing}:/m", "busybox", "true", command="create")
    assert left(engine) == before
    assert not missing.exists()
    assert [each["Name"] for each in plan["Volumes"]] == ["new", "<anonymous volume 1>"]
    assert plan["Directories"] == [str(missing)]
    sources = {each["destination"]: each["source"] for each in plan["Spec"]["mounts"]}
    assert sources["/new"] == "<source of volume new>"
    assert set(plan["Placeholders"]) >= {"<source of volume new>", "<anonymous volume 1>", "<name of the container>"}


def test_dry_run_reports_all_problems_at_once(engine: Engine) -> None:
    engine.ok("create", "--name", "taken", "busybox", "true")
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
        flags = ("-p", f"{port}:80", "--network", "absent", "-v", "lost:/v", "--volume-driver", "nowhere")
        argv = (*flags, "--name", "taken", "--mount", "type=bind,src=/no/such/path,dst=/p", "busybox", "true")
        plan = planned(engine, *argv, check=125)
    text = "\n".join(plan["Problems"])
    for part in ('name "/taken" is already in use', "network absent not found", "/no/such/path", f":{port}", "nowhere"):
        assert part in text
    shown = engine.orlop("create", "--dry-run", "--name", "taken", "busybox", "true", check=1)
    assert 'name "/taken" is already in use' in shown.out


def test_published_port_is_free_after_a_dry_run(engine: Engine) -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
    (first, *_) = planned(engine, "-p", f"{port}:80", "busybox", "true")["Ports"]
    assert first["HostPort"] == port
    assert first["Rule"].startswith(f"a firewall element forwards tcp packets for port {port} of every IPv4 address")
    engine.ok("run", "-d", "--name", "published", "-p", f"{port}:80", "busybox", "sleep", "600")
    again = planned(engine, "-p", f"{port}:80", "busybox", "true", check=125)
    assert "port is already allocated" in again["Problems"][0]


def test_dry_run_does_not_pull_a_missing_image(engine: Engine) -> None:
    before = left(engine)
    plan = planned(engine, "absent.invalid/image:1", command="create")
    assert plan["Image"] == {"Reference": "absent.invalid/image:1", "Id": "", "Pull": True}
    assert plan["Spec"]["process"]["args"] == ["<command of the image>"]
    assert left(engine) == before
    refused = planned(engine, "--pull", "never", "absent.invalid/image:1", check=1, command="create")
    assert refused["Problems"] == ["No such image: absent.invalid/image:1"]


def test_dry_run_of_an_invalid_request_has_the_same_error_as_a_create(engine: Engine) -> None:
    body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"PidMode": "container:absent"}}
    assert engine.api("POST", "/orlop/containers/plan", body) == engine.api("POST", "/containers/create", body)


def test_text_output_of_a_dry_run_shows_command_user_limits_and_problems(engine: Engine) -> None:
    shown = engine.orlop("run", "--dry-run", "-u", "5:6", "-m", "64m", "-p", "0:80", "busybox", "echo", "two words", check=0)
    lines = shown.out.splitlines()
    assert "  echo 'two words'" in lines
    assert "  5:6: uid 5, gid 6" in lines
    assert "  memory.limit 67108864" in lines
    assert lines[-3:] == ["Problems", "  none", "Nothing was created."]
