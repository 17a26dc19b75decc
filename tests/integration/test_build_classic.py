"""`POST /build` compared with dockerd's classic builder: status, result and last line of the answer; docker-py; the
clients."""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import urllib.parse
from pathlib import Path
from typing import Any

import docker
import pytest
from tests.integration.engine import BUSYBOX, Engine, until
from tests.integration.parity import Side

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]
needs_dockerd = pytest.mark.skipif(not shutil.which("dockerd"), reason="no dockerd to compare with")

SIMPLE = f"FROM {BUSYBOX}\nENV A=b\nRUN echo out; echo $A > /made\nRUN echo err >&2\nCOPY f /f\nLABEL x=y\n"


def tar(**files: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(text), 0o644
            made.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()


def post(path: str, body: bytes, **query: Any) -> tuple[int, list[dict[str, Any]]]:
    """The status and the lines of the answer."""
    connection = http.client.HTTPConnection("localhost", timeout=60)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(60)
    connection.sock.connect(path)
    target = "/v1.43/build?" + urllib.parse.urlencode(query, doseq=True)
    connection.request("POST", target, body, {"Content-Type": "application/x-tar"})
    answer = connection.getresponse()
    lines = [json.loads(line) for line in answer.read().splitlines() if line]
    connection.close()
    return answer.status, lines


def text_of(lines: list[dict[str, Any]]) -> str:
    return "".join(line.get("stream", "") for line in lines)


# --- beside dockerd ---------------------------------------------------------------------------------------------------


CASES: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "a failing command": ({"Dockerfile": f"FROM {BUSYBOX}\nRUN exit 3\n"}, {}),
    "a file that is missing": ({"Dockerfile": f"FROM {BUSYBOX}\nCOPY nosuch /x\n"}, {}),
    "an unknown instruction": ({"Dockerfile": "FOO bar\n"}, {}),
    "another Dockerfile that is missing": ({"Dockerfile": SIMPLE}, {"dockerfile": "zzz"}),
    "no Dockerfile": ({}, {}),
    "an unknown target": ({"Dockerfile": SIMPLE}, {"target": "zz"}),
    "an invalid name": ({"Dockerfile": SIMPLE}, {"t": "AAA"}),
    "squash": ({"Dockerfile": SIMPLE}, {"squash": "1"}),
    "an invalid platform": ({"Dockerfile": SIMPLE}, {"platform": "x/y/z/w"}),
    "a remote that is none": ({"Dockerfile": SIMPLE}, {"remote": "zzz"}),
}
STATUS = {  # dockerd answers 500, although the request is invalid
    "another Dockerfile that is missing": (500, 400),
    "no Dockerfile": (500, 400),
    "an invalid name": (500, 400),
    "a remote that is none": (500, 400),
}


@needs_dockerd
@pytest.mark.parametrize("name", CASES)
def test_failed_classic_builds_have_the_messages_of_dockerd(sides: tuple[Side, Side], name: str) -> None:
    files, query = CASES[name]
    theirs, ours = (post(side.path, tar(**files), **query) for side in sides)
    assert (theirs[0], ours[0]) == STATUS.get(name, (theirs[0], theirs[0]))
    said = [lines[-1].get("errorDetail") or lines[-1]["message"] for _, lines in (theirs, ours)]
    assert said[0] == said[1]


@needs_dockerd
def test_output_of_a_classic_build_shows_its_steps_and_its_image(sides: tuple[Side, Side]) -> None:
    shown, images = [], []
    for side in sides:
        status, lines = post(side.path, tar(Dockerfile=SIMPLE, f="content\n"), t=["classic:a", "classic-b"])
        assert status == 200
        text = text_of(lines).replace("\x1b[0m", "")  # the end of colours differs, and so do the lines between steps
        image = next(line["aux"]["ID"] for line in reversed(lines) if "aux" in line)
        assert f"Successfully built {image[7:19]}\n" in text
        shown.append([line for line in text.splitlines() if "--->" not in line and image[7:19] not in line])
        config = side.api("GET", "/images/classic:a/json")[1]
        images.append([config["Config"][key] for key in ("Env", "Labels", "Cmd", "Entrypoint")])
        assert side.api("GET", "/images/classic-b:latest/json")[1]["Id"] == config["Id"]
    assert shown[0] == shown[1]
    assert images[0] == images[1]


@needs_dockerd
@pytest.mark.parametrize("size", [10, 2 << 20], ids=["short", "long"])
def test_files_of_the_context_belong_to_root(sides: tuple[Side, Side], size: int) -> None:
    """The owners in the archive are ignored."""
    out = io.BytesIO()
    steps = f"FROM {BUSYBOX}\nCOPY f d /c/\nADD f /a/\nRUN stat -c '%a %u %g %n' /c/f /c/g /a/f\n"
    with tarfile.open(fileobj=out, mode="w") as made:
        for name, data in {"Dockerfile": steps.encode(), "f": os.urandom(size), "d/g": b""}.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.uid, info.gid = len(data), 0o640, 7, 9
            made.addfile(info, io.BytesIO(data))
    for side in sides:
        status, lines = post(side.path, out.getvalue())
        assert status == 200 and "640 0 0 /c/f\n640 0 0 /c/g\n640 0 0 /a/f\n" in text_of(lines), side.path


# --- Orlop ------------------------------------------------------------------------------------------------------------


def test_repeated_classic_build_uses_the_cache_and_makes_the_same_image(shared: Engine) -> None:
    body = tar(Dockerfile=SIMPLE, f="cached\n")
    (_, first), (_, second) = (post(shared.socket, body, t="classic-cache") for _ in range(2))
    assert text_of(second).count(" ---> Using cache\n") >= 3
    assert [line for line in first if "aux" in line] == [line for line in second if "aux" in line]
    _, quiet = post(shared.socket, body, q="1")
    assert quiet == [{"stream": f"{first[-3]['aux']['ID']}\n"}] or quiet[0]["stream"].startswith("sha256:")
    _, third = post(shared.socket, body, nocache="1")
    assert "out\n" in text_of(third)


def test_build_arguments_labels_and_extra_hosts_of_a_classic_build_are_applied(shared: Engine) -> None:
    text = f"FROM {BUSYBOX}\nARG WHO\nRUN echo hello $WHO; grep mine /etc/hosts\n"
    status, lines = post(
        shared.socket,
        tar(Dockerfile=text),
        buildargs='{"WHO":"you"}',
        labels='{"made":"here"}',
        extrahosts="mine:10.9.8.7",
        t="classic-arguments",
    )
    assert status == 200
    assert "hello you\n" in text_of(lines) and "10.9.8.7" in text_of(lines)
    assert shared.api("GET", "/images/classic-arguments/json")[1]["Config"]["Labels"] == {"made": "here"}


def test_a_damaged_context_is_refused(shared: Engine) -> None:
    for body in (b"no archive", tar(Dockerfile=SIMPLE)[:700], b""):
        status, lines = post(shared.socket, body)
        assert status in (400, 404) and lines[0]["message"], body[:10]
    assert not unpacked(shared)


def test_a_large_context_is_copied_and_found_in_the_cache(shared: Engine) -> None:
    """The daemon unpacks the context while it receives it."""
    steps = "COPY . /c/\nRUN cd /c && sha256sum big && stat -c '%a %u %Y %h' big && readlink link && ls\n"
    big = os.urandom(3 << 20)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        for name, data in {"Dockerfile": f"FROM {BUSYBOX}\n{steps}".encode(), "big": big}.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.mtime = len(data), 0o4751, 1_600_000_000
            made.addfile(info, io.BytesIO(data))
        for name, kind in (("link", tarfile.SYMTYPE), ("second", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "big"
            made.addfile(info)
    for cached in (False, True):
        status, lines = post(shared.socket, out.getvalue())
        assert status == 200
        assert (f"{hashlib.sha256(big).hexdigest()}  big\n4751 0 1600000000 2\nbig\n" in text_of(lines)) is not cached
        assert text_of(lines).count(" ---> Using cache\n") == (3 if cached else 1)
    until(lambda: not unpacked(shared), "the files of the context are removed")


def test_a_large_context_that_is_damaged_is_refused(shared: Engine) -> None:
    whole = tar(Dockerfile=SIMPLE, f="x" * (4 << 20))
    for body in (whole[: 3 << 20], b"other name, wrong checksum" + whole[26:]):
        status, lines = post(shared.socket, body)
        assert status in (200, 400) and "cannot unpack the archive" in str(lines[-1]), lines
    until(lambda: not unpacked(shared), "the files of the context are removed")


def unpacked(engine: Engine) -> list[str]:
    return [name for name in os.listdir(engine.home / "data" / "build") if name.startswith("unpack-")]


def test_docker_py_builds_an_image(shared: Engine, tmp_path: Path) -> None:
    sdk = shared.sdk
    (tmp_path / "Dockerfile").write_text(SIMPLE)
    (tmp_path / "f").write_text("sdk\n")
    image, logs = sdk.images.build(path=str(tmp_path), tag="classic-sdk", rm=True)
    assert image.tags == ["classic-sdk:latest"] and any("out" in line.get("stream", "") for line in logs)
    assert sdk.containers.run("classic-sdk", ["sh", "-c", "read x < /f; echo $x"], remove=True) == b"sdk\n"
    with pytest.raises(docker.errors.BuildError, match="returned a non-zero code: 7"):
        sdk.images.build(fileobj=io.BytesIO(f"FROM {BUSYBOX}\nRUN exit 7\n".encode()))
    with pytest.raises(docker.errors.APIError, match="unknown instruction"):
        sdk.images.build(fileobj=io.BytesIO(b"NOTHING\n"))


def test_clients_docker_and_orlop_can_build_without_buildx(shared: Engine, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM {BUSYBOX}\nCOPY f /\n")
    (tmp_path / "f").write_text("x")
    (tmp_path / "ignored").write_text("x")
    (tmp_path / ".dockerignore").write_text("ignored\n")
    env = {**os.environ, "DOCKER_BUILDKIT": "0", "DOCKER_HOST": f"unix://{shared.socket}"}
    env |= {"DOCKER_CONFIG": str(tmp_path / "client"), "ORLOP_HOST": env["DOCKER_HOST"]}
    for command in (["docker"], [sys.executable, "-m", "orlop_cli"]):
        words = [*command, "build", "-t", "classic-client", str(tmp_path)]
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        assert "Step 2/2 : COPY f /" in done.stdout and "Successfully tagged classic-client:latest" in done.stdout
    done = subprocess.run([*words[:-1], "/nosuch"], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1


def test_disconnected_client_cancels_its_build(shared: Engine) -> None:
    seconds = str(1000 + os.getpid())  # a unique text by which the step's process is found
    body = tar(Dockerfile=f"FROM {BUSYBOX}\nRUN echo began; sleep {seconds}\n")
    head = f"POST /v1.43/build HTTP/1.1\r\nHost: d\r\nContent-Type: application/x-tar\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(60)
        sock.connect(shared.socket)
        sock.sendall(head.encode() + body)
        found = b""
        while b"began" not in found:
            found += sock.recv(65536)
        until(lambda: running("sleep", seconds), "the step runs")
    until(lambda: not running("sleep", seconds), "the step has ended")


def running(*command: str) -> bool:
    wanted = "\0".join((*command, "")).encode()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if Path(f"/proc/{pid}/cmdline").read_bytes() == wanted:
                return True
        except OSError:
            continue
    return False


@pytest.mark.skipif(not Path("/usr/libexec/docker/cli-plugins/docker-buildx").exists(), reason="no buildx")
def test_client_orlop_can_build_with_buildx(shared: Engine, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM {BUSYBOX}\nRUN true\n")
    env = {**os.environ, "ORLOP_HOST": f"unix://{shared.socket}", "DOCKER_CONFIG": str(tmp_path / "client")}
    env.pop("DOCKER_BUILDKIT", None)
    words = [sys.executable, "-m", "orlop_cli", "build", "--progress=plain", "-t", "classic-buildx", str(tmp_path)]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and "naming to docker.io/library/classic-buildx" in done.stderr, done.stderr
