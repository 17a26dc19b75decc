"""A step ends when its client, its builder or the daemon ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.integration.building.backend import base, building, own, prepared, ran, sound
from tests.integration.building.client import BuilderClient, BuildingEngine
from tests.integration.engine import until

__all__ = ["building", "own"]  # fixtures

pytestmark = pytest.mark.root


def _steps(engine: BuildingEngine, marker: str) -> list[int]:
    """The processes of steps with this text in their command line."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                line = Path(f"/proc/{name}/cmdline").read_bytes()
            except OSError:
                continue
            if marker.encode() in line and b"sleep" in line:
                found.append(int(name))
    return found


def _builder(engine: BuildingEngine) -> int:
    assert engine.process is not None
    children = Path(f"/proc/{engine.process.pid}/task/{engine.process.pid}/children").read_text().split()
    return next(int(pid) for pid in children if Path(f"/proc/{pid}/comm").read_text().strip() == "orlop-builder")


def running(engine: BuildingEngine) -> tuple[BuilderClient, str]:
    """A client with a step that does not end by itself, and a text of the step's command line."""
    client, marker = engine.builder(), str(7_000_000 + int.from_bytes(os.urandom(2)))
    client.send("run", root=prepared(client), args=["sh", "-c", f"trap '' TERM; sleep {marker}"])
    until(lambda: _steps(engine, marker), "the step runs")
    return client, marker


def test_next_build_step_does_not_wait_until_the_runtime_has_deleted_the_last_step(
    own: Callable[..., BuildingEngine], tmp_path: Path
) -> None:
    """A step that succeeded has no mount any more. The runtime deletes the step while the next step runs. The release of the
    base waits for the end of the delete."""
    wrapper, proceed = tmp_path / "runtime", tmp_path / "proceed"
    waiting = f'case " $* " in *" delete "*) while [ ! -e {proceed} ]; do sleep 0.1; done;; esac'
    wrapper.write_text(f'#!/bin/sh\n{waiting}\nexec {shutil.which("runc")} "$@"\n')
    wrapper.chmod(0o755)
    engine = own({"runtimes": {"slow": {"path": str(wrapper)}}, "default-runtime": "slow"})
    client = engine.builder()
    try:
        key = prepared(client)
        assert ran(client, "echo one > /one", key)["code"] == 0
        (name,) = os.listdir(engine.exec_root / "run")
        monitor = json.loads((engine.exec_root / "run" / name / "monitor.json").read_text())["pid"]
        assert f"/mnt/{name}" not in Path(f"/proc/{monitor}/mountinfo").read_text()
        upper = client.result("prepare", parent=client.result("commit", key=key))
        assert ran(client, "cat /one", upper)["out"] == "one\n"
        assert len(os.listdir(engine.exec_root / "run")) == 2
        client.send("release", digest=base(client)["digest"])
    finally:
        proceed.touch()
    client.receive()
    assert os.listdir(engine.exec_root / "run") == []
    client.close()
    sound(engine)


def test_build_step_is_killed_when_its_client_disconnects(building: BuildingEngine) -> None:
    client, marker = running(building)
    client.close()
    until(lambda: not _steps(building, marker), "the step has ended")
    other = building.builder()
    sound_but_active(building, other)
    other.close()


def sound_but_active(engine: BuildingEngine, client: BuilderClient) -> None:
    """The only findings are snapshots that the builder process has prepared."""
    until(lambda: engine.api("GET", "/orlop/check")[1]["findings"] == [], "the check finds nothing")
    until(lambda: os.listdir(engine.exec_root / "run") == [], "no run is left")


def test_build_step_is_killed_when_its_builder_process_dies(building: BuildingEngine) -> None:
    client, marker = running(building)
    os.kill(_builder(building), signal.SIGKILL)
    until(lambda: not _steps(building, marker), "the step has ended")
    with pytest.raises((EOFError, OSError)):
        client.receive()
    client.close()
    sound(building)
    assert "the builds in it have failed" in building.log()
    again = building.builder()
    assert ran(again, "echo again")["out"] == "again\n"
    again.close()


@pytest.mark.parametrize("live", [True, False])
def test_build_step_is_killed_when_the_daemon_dies(own: Callable[..., BuildingEngine], live: bool) -> None:
    engine = own({"live-restore": live})
    client, marker = running(engine)
    builder = _builder(engine)
    engine.kill()
    until(lambda: not _steps(engine, marker), "the step has ended")
    until(lambda: not os.path.exists(f"/proc/{builder}"), "the builder has ended")
    client.close()
    engine.start()
    sound(engine)
    again = engine.builder()
    assert again.result("snapshots") == []
    assert ran(again, "echo again")["out"] == "again\n"
    again.close()


def test_build_step_fails_if_its_monitor_dies(building: BuildingEngine) -> None:
    client, marker = running(building)
    (name,) = os.listdir(building.exec_root / "run")
    monitor = json.loads((building.exec_root / "run" / name / "monitor.json").read_text())["pid"]
    os.kill(monitor, signal.SIGKILL)
    answer = client.receive()
    # Unavailable, if the daemon has not been told yet that the step runs
    assert answer.get("code") == 137 or answer.get("kind") == "Unavailable", answer
    assert not _steps(building, marker)
    client.close()
    sound(building)


def test_builds_are_ended_when_the_daemon_stops(own: Callable[..., BuildingEngine]) -> None:
    engine = own()
    client, marker = running(engine)
    began = time.monotonic()
    assert engine.stop() == 0
    assert time.monotonic() - began < 15
    assert not _steps(engine, marker)
    client.close()
    engine.start()
    sound(engine)


def test_idle_builder_process_is_ended(monkeypatch: pytest.MonkeyPatch, own: Callable[..., BuildingEngine]) -> None:
    monkeypatch.setenv("ORLOP_TEST_IDLE", "0.5")
    engine = own()
    client = engine.builder()
    pid = _builder(engine)
    time.sleep(1)
    assert os.path.exists(f"/proc/{pid}"), "it has a client"
    client.close()
    until(lambda: not os.path.exists(f"/proc/{pid}"), "the idle builder is ended")
    assert "the builds in it have failed" not in engine.log()
    again = engine.builder()
    assert ran(again, "echo again")["out"] == "again\n"
    again.close()
