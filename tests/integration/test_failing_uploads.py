"""Failing uploads with `docker cp`: dockerd's messages and status, while the client is still sending.

The expected answers are those of dockerd 26.1 to the same requests.
"""

import io
import json
import os
import socket
import tarfile

import pytest
from tests.integration.engine import BUSYBOX, patience

pytestmark = pytest.mark.root

BIG = 4 << 20  # more than all buffers between client and worker can hold


def tar(name, size=BIG):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.size = size
        archive.addfile(info, io.BytesIO(os.urandom(size)))
    return out.getvalue()


NO_TAR = b"no tar at all" * (BIG // 13)

FAILURES = [
    ("--read-only", "/tmp", tar("f"), "", 500, "container rootfs is marked read-only"),
    ("--volume=/v:ro", "/v", tar("f"), "", 500, "mounted volume is marked read-only"),
    ("", "/nosuch", tar("f"), "", 404, "Could not find the file /nosuch in container NAME"),
    ("", "/bin/busybox", tar("f"), "", 500, "extraction point is not a directory"),
    ("", "/tmp", NO_TAR, "", 500, "archive/tar: invalid tar header"),
    ("", "/tmp", b"abc", "", 500, "unexpected EOF"),
    ("", "/tmp", tar("f")[: BIG // 2], "", 500, "unexpected EOF"),
    ("", "/", tar("tmp"), "&noOverwriteDirNonDir=1", 500, "cannot overwrite directory tmp with non-directory"),
    ("", "/tmp", tar("../../f"), "", 500, "../../f: the name leads outside of the root"),
    ("--volume=SMALL:/s", "/s", tar("f"), "", 500, "write /s/f: no space left on device"),
]


@pytest.fixture
def small(tmp_path):
    """A file system of 1 MiB."""
    from orlop_sdk.linux import mount, umount

    directory = tmp_path / "small"
    directory.mkdir()
    mount("tmpfs", "tmpfs", str(directory), ("size=1m",))
    yield str(directory)
    umount(str(directory))


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize(("option", "path", "body", "query", "status", "message"), FAILURES)
def test_failed_uploads_have_the_error_messages_of_dockerd(
    engine, name, small, option, path, body, query, status, message, running, chunked
):
    options = [option.replace("/v:ro", f"{name}:/v:ro").replace("SMALL", small)] if option else []
    engine.ok("create", "--name", name, *options, BUSYBOX, "sh", "-c", "sleep 1000")
    if running:
        engine.ok("start", name)
    data = iter([body[at : at + 65536] for at in range(0, len(body), 65536)]) if chunked else body
    answer = _put(engine, f"/containers/{name}/archive?path={path}{query}", data)
    assert answer == (status, message.replace("NAME", name))
    assert "Cancel scope" not in engine.log()
    engine.ok("rm", "-fv", name)
    if name in engine.ok("volume", "ls", "-q"):
        engine.ok("volume", "rm", name)


def _put(engine, path, body):
    from tests.integration.engine import UnixConnection

    connection = UnixConnection(engine.socket)
    try:
        try:
            connection.request("PUT", path, body, encode_chunked=not isinstance(body, bytes))
        except (BrokenPipeError, ConnectionResetError):
            pass  # the daemon has answered early and closed the connection
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())["message"]
    finally:
        connection.close()


def test_daemon_sends_the_error_before_the_client_has_sent_the_whole_body(engine, name):
    engine.ok("create", "--name", name, BUSYBOX, "true")
    body = tar("f", 200_000)
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(patience(20))
        client.connect(engine.socket)
        client.sendall(
            f"PUT /containers/{name}/archive?path=/nosuch HTTP/1.1\r\nHost: x\r\nContent-Length: {BIG}\r\n\r\n".encode()
        )
        client.sendall(body)
        assert client.recv(1000).startswith(b"HTTP/1.1 404")
    engine.ok("rm", name)


def test_docker_cp_prints_the_error_of_the_daemon(engine, name, tmp_path):
    """Many `docker cp` commands run concurrently. Each prints its own error, and the daemon keeps working."""
    (tmp_path / "big").write_bytes(os.urandom(BIG))
    engine.ok("create", "--name", name, "--read-only", BUSYBOX, "true")
    children = [engine.background("cp", str(tmp_path / "big"), f"{name}:/tmp/") for _ in range(8)]
    for child in children:
        _, said = child.communicate(timeout=patience(30))
        assert (child.returncode, said) == (1, b"Error response from daemon: container rootfs is marked read-only\n")
    assert "Cancel scope" not in engine.log()
    engine.ok("rm", name)
