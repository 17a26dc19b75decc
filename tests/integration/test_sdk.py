"""The `docker` Python SDK in typical use."""

from __future__ import annotations

import gc
import socket
import threading
from collections.abc import Iterator
from typing import Any

import docker
import pytest
from tests.integration.engine import Engine, archive, until

pytestmark = [pytest.mark.root, pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")]


@pytest.fixture
def sdk(engine: Engine) -> Iterator[docker.DockerClient]:
    yield engine.sdk
    gc.collect()  # the SDK does not close stream sockets: collect them here, where a ResourceWarning is allowed


def test_docker_py_runs_a_container(sdk: docker.DockerClient) -> None:
    assert sdk.containers.run("busybox", "echo hello", remove=True) == b"hello\n"
    assert sdk.containers.run("busybox", ["sh", "-c", "echo e >&2"], remove=True, stderr=True, stdout=False) == b"e\n"
    with pytest.raises(docker.errors.ContainerError) as caught:
        sdk.containers.run("busybox", ["sh", "-c", "echo bad >&2; exit 3"], remove=True)
    assert (caught.value.exit_status, caught.value.stderr) == (3, b"bad\n")
    with pytest.raises(docker.errors.APIError, match="executable file not found"):
        sdk.containers.run("busybox", "no-such-command", remove=True)


def test_docker_py_runs_a_detached_container(sdk: docker.DockerClient, name: str) -> None:
    container = sdk.containers.run(
        "busybox", "sleep 600", detach=True, name=name, labels={"a": "b"}, environment=["X=1"], mem_limit="32m"
    )
    container.reload()
    assert container.status == "running"
    assert container.labels["a"] == "b"
    assert container.attrs["HostConfig"]["Memory"] == 32 << 20
    assert [one.name for one in sdk.containers.list(filters={"label": "a=b", "name": name})] == [name]
    assert container.top()["Titles"]
    container.pause()
    container.unpause()
    container.rename(f"{name}-new")
    container.restart(timeout=0)
    container.stop(timeout=0)
    assert container.wait() == {"StatusCode": 137}
    container.remove()
    with pytest.raises(docker.errors.NotFound):
        sdk.containers.get(container.id)


def test_docker_py_streams_logs(sdk: docker.DockerClient) -> None:
    script = "for i in 1 2 3 4 5; do echo $i; sleep 0.02; done"
    container = sdk.containers.run("busybox", ["sh", "-c", script], detach=True)
    assert b"".join(container.logs(stream=True, follow=True)) == b"1\n2\n3\n4\n5\n"
    assert container.logs(tail=2) == b"4\n5\n"
    assert container.wait(timeout=10) == {"StatusCode": 0}


def test_docker_py_runs_an_exec(sdk: docker.DockerClient) -> None:
    container = sdk.containers.run("busybox", "sleep 600", detach=True)
    assert container.exec_run("echo plain") == (0, b"plain\n")
    code, (out, err) = container.exec_run(["sh", "-c", "echo o; echo e >&2; exit 4"], demux=True)
    assert (code, out, err) == (4, b"o\n", b"e\n")
    stream = container.exec_run(["sh", "-c", "echo 1; echo 2"], stream=True).output
    assert b"".join(stream) == b"1\n2\n"
    assert container.exec_run("id -u", user="nobody").output == b"65534\n"
    assert container.exec_run("pwd", workdir="/etc", environment={"A": "1"}).output == b"/etc\n"
    code, output = container.exec_run("no-such")
    assert code in (126, 127)
    assert b"executable file not found" in output


def test_docker_py_sends_and_receives_over_an_attach_socket(sdk: docker.DockerClient) -> None:
    container = sdk.containers.create("busybox", "cat", stdin_open=True, tty=False)
    attached = container.attach_socket(params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
    sock: Any = attached._sock
    container.start()
    sock.sendall(b"there and back\n")
    frame = b""
    while len(frame) < 8 + len(b"there and back\n"):
        frame += sock.recv(100)
    assert frame == b"\x01\0\0\0\0\0\0\x0fthere and back\n"
    sock.shutdown(socket.SHUT_WR)
    assert container.wait(timeout=10) == {"StatusCode": 0}  # the end of input ended cat
    attached.close()
    sock.close()


def test_docker_py_receives_events(sdk: docker.DockerClient, name: str) -> None:
    seen: list[str] = []
    events = sdk.events(decode=True, filters={"container": name})

    def watch() -> None:
        for event in events:
            seen.append(event["Action"])
            if event["Action"] == "die":
                return

    thread = threading.Thread(target=watch)
    thread.start()
    sdk.containers.run("busybox", "true", detach=True, name=name)
    thread.join(10)
    events.close()
    assert seen == ["create", "start", "die"]


def test_docker_py_creates_volumes_and_networks(sdk: docker.DockerClient, name: str) -> None:
    volume = sdk.volumes.create(name, labels={"for": name})
    network = sdk.networks.create(name, driver="bridge")
    out = sdk.containers.run(
        "busybox", "ls -d /data", volumes={name: {"bind": "/data", "mode": "rw"}}, network=name, remove=True
    )
    assert out == b"/data\n"
    assert [one.name for one in sdk.volumes.list(filters={"label": f"for={name}"})] == [name]
    assert [one.name for one in sdk.networks.list(names=[name])] == [name]
    network.remove()
    until(lambda: _removed(volume), "the volume of a container that is going")


def _removed(volume: Any) -> bool:
    try:
        volume.remove()
    except docker.errors.APIError:
        return False
    return True


def test_docker_py_manages_images(sdk: docker.DockerClient, name: str) -> None:
    image = sdk.images.get("busybox")
    assert "busybox:latest" in image.tags
    assert image.tag(name, "one")
    assert [one.id for one in sdk.images.list(name)] == [image.id]
    (loaded,) = sdk.images.load(archive())
    assert loaded.id == image.id
    sdk.images.remove(f"{name}:one")
    with pytest.raises(docker.errors.ImageNotFound):
        sdk.images.get(f"{name}:one")
    with pytest.raises(docker.errors.ImageNotFound):
        sdk.containers.create("no-such-image")


def test_docker_py_gets_version_and_info_and_disk_usage(sdk: docker.DockerClient) -> None:
    assert sdk.ping()
    assert sdk.version()["ApiVersion"]
    info = sdk.info()
    assert info["OSType"] == "linux"
    assert info["Driver"] == "overlay2"
    assert sdk.df()["Images"]
