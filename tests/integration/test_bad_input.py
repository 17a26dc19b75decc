"""Bad requests and full disks: the answer has an error status and names the cause, and the daemon continues to work."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.engine import Engine, until

pytestmark = pytest.mark.root

CREATE = "/v1.43/containers/create"


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b'{"Image":', 400, ["invalid JSON"]),
        (b"", 400, ["got EOF while reading request body"]),
        (b"[]", 400, ["invalid JSON", "expected object"]),
        (b'"x"', 400, ["invalid JSON"]),
        (b'{"Image":"busybox"}{"Image":"x"}', 400, ["unexpected content after JSON"]),
        (b"\xff\xfe", 400, ["invalid JSON"]),
        (b'{"Image":5}', 400, ["invalid JSON", "Image", "int"]),
        (b'{"Image":"busybox","Cmd":{"a":1}}', 400, ["Cmd"]),
        (b'{"Image":"busybox","Env":"A=1"}', 400, ["Env"]),
        (b'{"Image":"busybox","HostConfig":{"Memory":"1g"}}', 400, ["HostConfig.Memory", "int"]),
        (b'{"Image":"busybox","HostConfig":{"Binds":[1]}}', 400, ["HostConfig.Binds"]),
        (b'{"Image":"busybox","HostConfig":{"PortBindings":{"80/tcp":[{"HostPort":8080}]}}}', 400, ["HostPort"]),
        (b"{}", 400, ["image"]),
        (b'{"Image":"no-such"}', 404, ["No such image: no-such:latest"]),
        (b'{"Image":"busybox","HostConfig":{"PortBindings":{"x/tcp":[{"HostPort":"1"}]}}}', 400, ["invalid port"]),
        (b'{"Image":"busybox","HostConfig":{"PortBindings":{"80/tcp":[{"HostPort":"99999"}]}}}', 400, ["99999"]),
        (b'{"Image":"busybox","HostConfig":{"RestartPolicy":{"Name":"sometimes"}}}', 400, ["unknown policy 'sometimes'"]),
        (b'{"Image":"busybox","HostConfig":{"Runtime":"no-such"}}', 400, ["unknown or invalid runtime name: no-such"]),
        (b'{"Image":"busybox","HostConfig":{"LogConfig":{"Type":"no-such"}}}', 400, ["no-such"]),
        (b'{"Image":"busybox","HostConfig":{"LogConfig":{"Config":{"x":"y"}}}}', 400, ["unknown log opt 'x'"]),
        (b'{"Image":"busybox","HostConfig":{"Binds":["a:b:c:d"]}}', 400, ["invalid volume specification: 'a:b:c:d'"]),
        (b'{"Image":"busybox","HostConfig":{"Binds":["/a:relative"]}}', 400, ["invalid mode: relative"]),
        (b'{"Image":"busybox","HostConfig":{"Binds":["/a:relative:ro"]}}', 400, ["must be absolute"]),
        (b'{"Image":"busybox","HostConfig":{"CapAdd":["NO_SUCH"]}}', 400, ["NO_SUCH"]),
        (b'{"Image":"busybox","HostConfig":{"Memory":1024}}', 400, ["Minimum memory limit allowed is 6MB"]),
        (b'{"Image":"busybox","WorkingDir":"relative"}', 400, ["it needs to be an absolute path"]),
        (b'{"Image":"busybox","Hostname":"-bad-"}', 400, ["invalid hostname"]),
        (b'{"Image":"busybox","StopSignal":"NOPE"}', 400, ["invalid signal: NOPE"]),
        (b'{"Image":"BAD NAME"}', 400, ["invalid reference format"]),
    ],
)
def test_invalid_create_requests_are_refused(engine: Engine, body: bytes, status: int, words: list[str]) -> None:
    found, answer = engine.api("POST", CREATE, body)
    assert (found, sorted(answer)) == (status, ["message"]), answer
    for word in words:
        assert word in answer["message"]
    assert engine.ok("ps", "-aq") == ""


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/v1.43/no-such", 404, "page not found"),
        ("PUT", "/v1.43/containers/json", 404, "page not found"),
        ("GET", "/v1.43/containers/json?filters=nonsense", 400, "invalid filter"),
        ("GET", "/v1.43/containers/no-such/json", 404, "No such container: no-such"),
        ("POST", "/v1.43/containers/no-such/start", 404, "No such container: no-such"),
        ("POST", "/v1.43/containers/no-such/wait", 404, "No such container: no-such"),
        ("POST", "/v1.43/containers/no-such/attach?stream=1", 404, "No such container: no-such"),
        ("DELETE", "/v1.43/containers/no-such", 404, "No such container: no-such"),
        ("GET", "/v1.43/exec/no-such/json", 404, "No such exec instance: no-such"),
        ("GET", "/v1.43/images/no-such/json", 404, "No such image: no-such:latest"),
        ("DELETE", "/v1.43/images/no-such", 404, "No such image: no-such:latest"),
        ("GET", "/v1.43/networks/no-such", 404, "network no-such not found"),
        ("DELETE", "/v1.43/networks/no-such", 404, "network no-such not found"),
        ("GET", "/v1.43/volumes/no-such", 404, "get no-such: no such volume"),
        ("DELETE", "/v1.43/volumes/no-such", 404, "get no-such: no such volume"),
        (
            "GET",
            "/v1.10/containers/json",
            400,
            "client version 1.10 is too old. Minimum supported API version is 1.24, "
            "please upgrade your client to a newer version",
        ),
    ],
)
def test_error_answers_have_the_status_and_message_of_dockerd(
    engine: Engine, method: str, path: str, status: int, message: str
) -> None:
    assert engine.api(method, path) == (status, {"message": message})


def test_request_with_an_api_version_newer_than_the_daemon_s_is_refused(engine: Engine) -> None:
    status, answer = engine.api("GET", "/v9.99/containers/json")
    assert status == 400
    assert answer["message"].startswith("client version 9.99 is too new. Maximum supported API version is 1.")


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/v1.43/networks/create", {"Name": "n1", "Driver": "no-such"}, 404, "no-such"),
        ("/v1.43/networks/create", {"Name": ""}, 400, "name"),
        ("/v1.43/networks/create", {"Name": 5}, 400, "Name"),
        ("/v1.43/networks/create", {"Name": "n1", "IPAM": {"Config": [{"Subnet": "10.0.0.0/99"}]}}, 400, "10.0.0.0/99"),
        ("/v1.43/volumes/create", {"Name": "v1", "Driver": "no-such"}, 404, 'plugin "no-such" not found'),
        ("/v1.43/volumes/create", {"Name": "../up"}, 400, "../up"),
        ("/v1.43/volumes/create", {"Name": "v1", "DriverOpts": {"x": "y"}}, 400, "x"),
    ],
)
def test_invalid_networks_and_volumes_are_refused(engine: Engine, path: str, body: Any, status: int, words: str) -> None:
    found, answer = engine.api("POST", path, body)
    assert found == status, answer
    assert words in answer["message"]


def test_wrong_content_type_is_refused(engine: Engine) -> None:
    status, answer = engine.api("POST", CREATE, b'{"Image":"busybox"}', {"Content-Type": "text/plain"})
    assert (status, answer["message"]) == (400, "unsupported Content-Type header (text/plain): must be 'application/json'")


def test_invalid_container_names_and_parameters_are_refused(engine: Engine, name: str) -> None:
    for bad in ("a", "-x", "a/b", "a b"):
        result = engine.docker("create", "--name", bad, "busybox")
        assert result.code == 1
        assert f"Invalid container name ({bad}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed" in result.err
    engine.ok("create", "--name", name, "busybox")
    for query, words in (
        ("rename", "Neither old nor new names may be empty"),
        ("rename?name=..%2Fx", "Invalid container name"),
        ("kill?signal=NOPE", "invalid signal: NOPE"),
        ("wait?condition=nope", 'invalid condition: "nope"'),
        ("resize?h=a&w=1", 'parsing "a"'),
    ):
        status, answer = engine.api("POST", f"/v1.43/containers/{name}/{query}")
        assert status == 400
        assert words in answer["message"]
    status, answer = engine.api("GET", f"/v1.43/containers/{name}/logs")
    assert (status, answer["message"]) == (400, "Bad parameters: you must choose at least one stream")


def test_ambiguous_id_prefix_is_refused(engine: Engine) -> None:
    ids: list[str] = []
    while len({one[0] for one in ids}) == len(ids):
        ids.append(engine.ok("create", "busybox"))
    prefix = ids[-1][0]
    result = engine.docker("inspect", prefix, "--type", "container")
    assert result.code == 1
    status, answer = engine.api("GET", f"/containers/{prefix}/json")
    assert (status, answer["message"]) == (404, f"No such container: {prefix}") or "multiple IDs found" in answer["message"]


def test_client_that_disconnects_within_a_request_affects_no_other_client(engine: Engine) -> None:
    """A client that disconnects within a request affects no other client."""
    import socket

    for piece in (
        b"",
        b"GET",
        b"POST /v1.43/containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
        b"\0" * 100,
    ):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(engine.socket)
            sock.sendall(piece)
    assert engine.ok("run", "--rm", "busybox", "echo", "well") == "well"


# --- daemon.json --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"live-restore": "yes"}', ["live-restore", "expected true or false, got a string"]),
        ('{"no-such-key": 1}', ["no-such-key"]),
        ('{"live-restore": true', ["JSON"]),
        ('{"log-driver": "no-such"}', ["no-such"]),
        ('{"storage-driver": "no-such"}', ["no-such", "overlay2"]),
        ('{"data-root": "/x", "hosts": []}', ["data-root"]),
        ('{"bip": "10.1.2.3"}', ["bip", "10.1.2.3"]),
        ('{"default-address-pools": [{"base": "10.0.0.0/16", "size": 8}]}', ["default-address-pools"]),
        ('{"log-opts": {"no-such": "1"}}', ["no-such"]),
    ],
)
def test_invalid_configuration_is_reported_without_a_traceback(
    engine: Engine, tmp_path: Path, text: str, words: list[str]
) -> None:
    path = tmp_path / "daemon.json"
    path.write_text(text)
    roots = ["--data-root", str(tmp_path / "d"), "--exec-root", str(tmp_path / "r"), "-H", f"unix://{tmp_path}/s"]
    command = [engine.command[0], "-m", "orlop_kernel", "--config-file", str(path), *roots]
    result = engine.run(command)
    assert result.code == 1
    for word in words:
        assert word in result.err
    assert "Traceback" not in result.err


def test_missing_configuration_file_is_reported(engine: Engine, tmp_path: Path) -> None:
    result = engine.run([engine.command[0], "-m", "orlop_kernel", "--config-file", str(tmp_path / "none.json")])
    assert result.code == 1
    assert "none.json" in result.err
    assert "no such file" in result.err.lower()


# --- a full disk --------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)], check=True)
    yield disk
    until(lambda: subprocess.run(["umount", str(disk)], check=False).returncode == 0, "the disk can be unmounted")


def test_operations_on_a_full_disk_fail_and_work_again_afterwards(small_disk: Path, fresh: Callable[..., Engine]) -> None:
    engine = fresh({"shutdown-timeout": 3}, data_root=small_disk / "data")
    engine.ok("run", "-d", "--name", "before", "--stop-timeout", "0", "busybox", "sleep", "600")
    engine.ok("create", "--name", "ready", "busybox", "echo", "ready")
    engine.ok("run", "-d", "--name", "ends", "--restart", "no", "busybox", "sleep", "600")
    ballast = small_disk / "ballast"
    with ballast.open("wb") as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(b"x" * 65536)
            file.flush()
    for command in (["run", "-d", "--name", "full", "busybox", "true"], ["start", "ready"], ["volume", "create", "full"]):
        result = engine.docker(*command)
        assert result.code != 0, command
        assert "no space left on device" in result.err.lower()
    assert engine.docker("load", stdin=_other_image()).code == 1
    assert "no space left on device" in engine.docker("load", stdin=_other_image()).err.lower()
    # Running containers can be listed, used and stopped
    assert engine.ok("ps", "--format", "{{.Names}}").split() == ["ends", "before"]
    assert engine.ok("exec", "before", "echo", "well") == "well"
    engine.ok("kill", "ends")
    assert engine.ok("wait", "ends") == "137"
    engine.docker("kill", "before")
    ballast.unlink()
    engine.wait_state("before", "exited")
    assert engine.ok("run", "--rm", "--name", "full", "busybox", "echo", "again") == "again"
    assert engine.ok("start", "-a", "ready") == "ready"
    engine.ok("start", "before")
    # The next daemon knows the exits that happened while the disk was full
    until(lambda: not engine.recorded_late(), "the exits are recorded")
    engine.kill()
    engine.start()
    assert engine.inspect("ends")["State"]["ExitCode"] == 137
    assert engine.ok("run", "--rm", "busybox", "echo", "after a restart") == "after a restart"
    assert engine.process is not None


def _other_image() -> bytes:
    from tests.registry import docker_archive, image, layer

    return docker_archive({"other:1": image([layer({"data": bytes(range(256)) * 40_000})])})


def test_log_on_a_full_disk_does_not_stop_the_container(small_disk: Path, fresh: Callable[..., Engine]) -> None:
    engine = fresh({"shutdown-timeout": 3}, data_root=small_disk / "data")
    spare = small_disk / "spare"
    spare.write_bytes(b"x" * (1 << 20))
    script = "seq 1 3000000 >&2; echo done > /dev/shm/f; sleep 600"
    engine.ok("run", "-d", "--name", "chatty", "busybox", "sh", "-c", script)
    until(lambda: engine.docker("exec", "chatty", "cat", "/dev/shm/f").out == "done\n", "it wrote more than the disk holds")
    log = Path(engine.inspect("chatty")["LogPath"])
    assert log.stat().st_size > 1 << 20
    spare.unlink()  # the deletion of the row needs space, too
    engine.ok("rm", "-f", "chatty")
    until(lambda: not log.exists(), "its log is gone")
    assert engine.ok("run", "--rm", "busybox", "echo", "again") == "again"


def test_option_validate_checks_the_configuration_without_starting_the_daemon(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "daemon.json"
    path.write_text(json.dumps({"live-restore": True}))
    result = engine.run([engine.command[0], "-m", "orlop_kernel", "--validate", "--config-file", str(path)])
    assert (result.code, result.err) == (0, "configuration OK\n")
