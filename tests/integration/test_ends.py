"""When the daemon says that a container has exited or is removed, the exit is recorded and the removal is complete. This is
tested for streams, waits and events, with the real client."""

import json
import os
import socket

import pytest
from tests.integration.engine import BUSYBOX, patience, until

pytestmark = pytest.mark.root

ROUNDS = 10


def test_run_with_rm_removes_volumes_before_it_returns_and_files_soon_after(engine):
    for _ in range(ROUNDS):
        name = engine.ok("volume", "create")
        before = engine.ok("volume", "ls", "-q").split()
        engine.ok("run", "--rm", "-v", "/anonymous", "-v", f"{name}:/named", BUSYBOX, "true")
        assert engine.ok("volume", "ls", "-q").split() == before
        engine.ok("volume", "rm", name)
    until(lambda: os.listdir(engine.data_root / "containers") == [], "no directories of containers")


def test_docker_rm_removes_all_files_of_the_container_before_it_returns(engine, name):
    for _ in range(ROUNDS):
        snapshots = set(os.listdir(engine.data_root / "overlay2"))
        engine.ok("run", "--name", name, BUSYBOX, "true")
        engine.ok("rm", name)
        assert os.listdir(engine.data_root / "containers") == []
        assert set(os.listdir(engine.data_root / "overlay2")) == snapshots


def test_name_network_and_volume_can_be_reused_after_the_destroy_event(engine, name):
    """A client can recreate a container on its `destroy` event, with the same name, network and volume."""
    for _ in range(ROUNDS):
        engine.ok("network", "create", name)
        engine.ok("run", "-d", "--rm", "--network", name, "-v", "/anonymous", "--name", name, BUSYBOX, "sleep", "1000")
        kept = _volumes_of_others(engine, name)
        with socket.socket(socket.AF_UNIX) as events:
            events.settimeout(patience(20))
            events.connect(engine.socket)
            wanted = json.dumps({"event": {"destroy": True}, "type": {"container": True}, "container": {name: True}})
            events.sendall(f"GET /events?filters={wanted.replace(' ', '')} HTTP/1.0\r\n\r\n".encode())
            heard = events.recv(4096)  # the answer's head: the subscription is active
            killing = engine.background("kill", name)
            while b'"destroy"' not in heard:
                heard += events.recv(4096)
            assert set(engine.ok("volume", "ls", "-q").split()) == kept
            engine.ok("network", "rm", name)
            killing.communicate()
        engine.ok("create", "--name", name, BUSYBOX, "true")
        engine.ok("rm", name)


def _volumes_of_others(engine, name):
    own = {mount["Name"] for mount in engine.inspect(name)["Mounts"]}
    return set(engine.ok("volume", "ls", "-q").split()) - own


WEBSOCKET = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"


@pytest.mark.parametrize(
    ("method", "route", "upgrade"), [("POST", "attach", "Upgrade: tcp\r\n"), ("GET", "attach/ws", WEBSOCKET)]
)
def test_exit_is_recorded_and_network_is_unused_when_an_attached_stream_ends(engine, name, method, route, upgrade):
    for _ in range(ROUNDS):
        engine.ok("network", "create", name)
        made = engine.ok("create", "--network", name, BUSYBOX, "sh", "-c", "echo over; exit 7")
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(patience(20))
            client.connect(engine.socket)
            client.sendall(
                f"{method} /containers/{made}/{route}?stream=1&stdout=1 HTTP/1.1\r\nHost: x\r\n"
                f"Connection: Upgrade\r\n{upgrade}\r\n".encode()
            )
            assert client.recv(4096).startswith(b"HTTP/1.1 101")
            assert engine.api("POST", f"/containers/{made}/start")[0] == 204
            while client.recv(4096):
                pass
        state = engine.inspect(made)["State"]
        assert (state["Status"], state["ExitCode"]) == ("exited", 7)
        engine.ok("network", "rm", name)
        engine.ok("rm", made)


def test_inspect_shows_the_exit_code_as_soon_as_docker_logs_follow_returns(engine, name):
    for _ in range(ROUNDS):
        engine.ok("run", "-d", "--name", name, BUSYBOX, "sh", "-c", "sleep 0.1; exit 7")
        engine.ok("logs", "-f", name)
        assert engine.inspect(name)["State"]["ExitCode"] == 7
        engine.ok("rm", name)


def test_remaining_processes_are_killed_before_removal_with_pid_host(engine, name):
    """With `--pid host`, remaining processes are killed before the container's files are removed."""
    before = engine.ok("volume", "ls", "-q")
    script = "(while :; do echo > /v/$RANDOM; done) & sleep 0.1"
    engine.ok("run", "--rm", "--pid", "host", "-v", "/v", BUSYBOX, "sh", "-c", script)
    assert engine.ok("volume", "ls", "-q") == before
    until(lambda: os.listdir(engine.data_root / "containers") == [], "no directories of containers")
