"""`orlop run`, `pull` and `load` against recorded answers: requests, output, exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orlop_cli.testing import UPGRADED, RecordedDaemon, Request, answer, chunked, frame

ID = "0123456789abcdef" * 4

# The settings of the user who runs the tests must not change the results
pytestmark = pytest.mark.usefixtures("clean")


# --- run


def attached(daemon: RecordedDaemon, output: bytes, code: int, start: bytes | None = None) -> None:
    """Record the answers for `run`. The answer to `wait` has its head immediately, and its body after the output has been
    sent."""
    import threading

    done = threading.Event()
    started = threading.Event()

    def attach(connection: Any, request: Request) -> None:
        connection.sendall(UPGRADED)
        started.wait(5)
        connection.sendall(output)
        done.set()

    def wait(connection: Any, request: Request) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        done.wait(5)
        body = json.dumps({"StatusCode": code}).encode()
        connection.sendall(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))

    def go(connection: Any, request: Request) -> None:
        if start is not None:
            done.set()
        connection.sendall(start or answer(status=204))
        started.set()

    daemon.on("POST", "/containers/create", answer({"Id": ID, "Warnings": []}, 201))
    daemon.on("POST", f"/containers/{ID}/attach", attach)
    daemon.on("POST", f"/containers/{ID}/wait", wait)
    daemon.on("POST", f"/containers/{ID}/start", go)


def test_attached_run_prints_output_and_returns_the_exit_code(daemon: RecordedDaemon, orlop: Any) -> None:
    attached(daemon, frame(1, b"out\n") + frame(2, b"err\n"), 7)
    done = orlop("run", "--rm", "busybox", "x")
    assert (done.code, done.out, done.err) == (7, "out\n", "err\n")
    assert daemon.seen() == [
        "POST /containers/create",
        *(f"POST /containers/{ID}/{verb}" for verb in ("attach", "wait", "start")),
    ]
    assert daemon.requests[1].headers["upgrade"] == "tcp"
    assert daemon.requests[1].target.endswith("/attach?stream=1&stdout=1&stderr=1")
    assert daemon.requests[2].target.endswith("/wait?condition=removed")


def test_detached_run_prints_the_id(daemon: RecordedDaemon, orlop: Any) -> None:
    daemon.on("POST", "/containers/create", answer({"Id": ID, "Warnings": []}, 201))
    daemon.on("POST", f"/containers/{ID}/start", answer(status=204))
    done = orlop("run", "-d", "--name", "n", "busybox")
    assert (done.code, done.out) == (0, ID + "\n")
    assert daemon.seen() == ["POST /containers/create", f"POST /containers/{ID}/start"]
    assert daemon.requests[0].target.endswith("/create?name=n")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('exec: "x": executable file not found in $PATH', 127),
        ("stat /x: no such file or directory", 127),
        ('exec: "/etc": permission denied', 126),
        ('exec: "/etc": is a directory', 126),
        ("driver failed programming external connectivity", 125),
    ],
)
def test_failed_start_sets_the_exit_code(daemon: RecordedDaemon, orlop: Any, text: str, code: int) -> None:
    attached(daemon, b"", 0, answer({"message": text}, 400))
    done = orlop("run", "--rm", "busybox", "x")
    assert done.code == code
    assert done.err == f"orlop: Error response from daemon: {text}\n"


def test_run_pulls_a_missing_image(daemon: RecordedDaemon, orlop: Any) -> None:
    daemon.on("POST", "/containers/create", answer({"Id": ID, "Warnings": []}, 201))
    daemon.on("POST", "/containers/create", answer({"message": "No such image: nginx:latest"}, 404), times=1)
    daemon.on("POST", f"/containers/{ID}/start", answer(status=204))
    daemon.on("POST", "/images/create", chunked(PULL))
    done = orlop("run", "-d", "nginx")
    assert (done.code, done.out) == (0, ID + "\n")
    assert done.err.splitlines()[:2] == ["Unable to find image 'nginx:latest' locally", "latest: Pulling from library/nginx"]
    assert daemon.requests[1].target.endswith("/images/create?fromImage=nginx&tag=latest")


@pytest.mark.parametrize(("message", "flags"), [("No such image: x", ["--pull", "never"]), ("network x not found", [])])
def test_run_does_not_pull_an_image_with_pull_never_or_after_an_unrelated_error(
    daemon: RecordedDaemon, orlop: Any, message: str, flags: list[str]
) -> None:
    daemon.on("POST", "/containers/create", answer({"message": message}, 404))
    assert orlop("run", *flags, "x").code == 125
    assert [line for line in daemon.seen() if line.startswith("POST")] == ["POST /containers/create"]


def test_run_with_the_tty_flag_is_refused_without_a_terminal(daemon: RecordedDaemon, orlop: Any) -> None:
    done = orlop("run", "-it", "busybox")
    assert (done.code, done.err) == (1, "orlop: the input device is not a TTY\n")
    assert daemon.requests == []


# --- pull, load


PULL = [
    json.dumps(record).encode() + b"\r\n"
    for record in (
        {"status": "Pulling from library/nginx", "id": "latest"},
        {"status": "Pulling fs layer", "progressDetail": {}, "id": "a1"},
        {"status": "Downloading", "progressDetail": {"current": 5, "total": 10}, "id": "a1"},
        {"status": "Download complete", "progressDetail": {}, "id": "a1"},
        {"status": "Pull complete", "progressDetail": {}, "id": "a1"},
        {"status": "Digest: sha256:" + "d" * 64},
        {"status": "Status: Downloaded newer image for nginx:latest"},
    )
]


def test_pull_without_a_terminal_prints_progress_as_plain_lines(daemon: RecordedDaemon, orlop: Any) -> None:
    whole = b"".join(PULL)
    daemon.on("POST", "/images/create", chunked([whole[:70], whole[70:]]))
    done = orlop("pull", "nginx")
    assert done.code == 0
    assert done.out.splitlines() == [
        "Using default tag: latest",
        "latest: Pulling from library/nginx",
        "a1: Pulling fs layer",
        "a1: Download complete",
        "a1: Pull complete",
        "Digest: sha256:" + "d" * 64,
        "Status: Downloaded newer image for nginx:latest",
        "docker.io/library/nginx:latest",
    ]


def test_failed_pull_prints_its_error(daemon: RecordedDaemon, orlop: Any) -> None:
    last = b'{"errorDetail":{"message":"unexpected EOF"},"error":"unexpected EOF"}\r\n'
    daemon.on("POST", "/images/create", chunked([*PULL[:3], last]))
    done = orlop("pull", "-q", "nginx")
    assert (done.code, done.out, done.err) == (1, "", "orlop: unexpected EOF\n")


PUSH = [
    json.dumps(record).encode() + b"\r\n"
    for record in (
        {"status": "The push refers to repository [reg.io/x]"},
        {"status": "Preparing", "progressDetail": {}, "id": "a1"},
        {"status": "Pushing", "progressDetail": {"current": 5, "total": 10}, "id": "a1"},
        {"status": "Pushed", "progressDetail": {}, "id": "a1"},
        {"status": "latest: digest: sha256:12 size: 5"},
        {"progressDetail": {}, "aux": {"Tag": "latest", "Digest": "sha256:12", "Size": 5}},
    )
]


def test_push_without_a_terminal_prints_progress_as_plain_lines(daemon: RecordedDaemon, orlop: Any) -> None:
    daemon.on("POST", "/images/reg.io/x/push", chunked(PUSH))
    done = orlop("push", "reg.io/x")
    assert (done.code, done.out.splitlines()) == (
        0,
        [
            "Using default tag: latest",
            "The push refers to repository [reg.io/x]",
            "a1: Preparing",
            "a1: Pushed",
            "latest: digest: sha256:12 size: 5",
        ],
    )
    assert daemon.requests[0].target.endswith("/images/reg.io/x/push?tag=latest")
    assert daemon.requests[0].headers["x-registry-auth"] == "e30="
    assert orlop("push", "-q", "reg.io/x:v1").out == "reg.io/x:v1\n"
    assert orlop("push", "-a", "-q", "reg.io/x").out == "reg.io/x\n"
    assert [request.target.partition("?")[2] for request in daemon.requests[1:]] == ["tag=v1", ""]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-a", "x:v1"], "tag can't be used with --all-tags/-a"),
        (["x@sha256:" + "0" * 64], "cannot push a digest reference"),
        (["X"], "repository name (library/X) must be lowercase"),
    ],
)
def test_invalid_push_arguments_are_refused(daemon: RecordedDaemon, orlop: Any, words: list[str], message: str) -> None:
    done = orlop("push", *words)
    assert done.code == 1 and message in done.err and not daemon.requests


def test_failed_push_prints_its_error(daemon: RecordedDaemon, orlop: Any) -> None:
    last = b'{"errorDetail":{"message":"denied: no"},"error":"denied: no"}\r\n'
    daemon.on("POST", "/images/reg.io/x/push", chunked([*PUSH[:2], last]))
    for words in (["reg.io/x"], ["-q", "reg.io/x"]):
        done = orlop("push", *words)
        assert (done.code, done.err) == (1, "orlop: denied: no\n")


def test_stored_credentials_are_sent_with_pull_and_push(daemon: RecordedDaemon, orlop: Any, tmp_path: Path) -> None:
    import base64

    from orlop_cli import _config

    _config.forget()
    auth = base64.b64encode(b"me:pass:word").decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {"reg.io": {"auth": auth}}}))
    daemon.on("POST", "/images/create", chunked(PULL))
    try:
        orlop("pull", "-q", "reg.io/x")
        orlop("pull", "-q", "other.io/x")
    finally:
        _config.forget()
    sent = json.loads(base64.urlsafe_b64decode(daemon.requests[0].headers["x-registry-auth"]))
    assert sent == {"username": "me", "password": "pass:word", "serveraddress": "reg.io"}
    assert "x-registry-auth" not in daemon.requests[1].headers


def test_load_sends_the_content_of_the_file(daemon: RecordedDaemon, orlop: Any, tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    (tmp_path / "image.tar").write_bytes(data)
    daemon.on("GET", "/_ping", answer())
    daemon.on("POST", "/images/load", chunked([b'{"stream":"Loaded image: a:b\\n"}\r\n']))
    done = orlop("load", "-i", str(tmp_path / "image.tar"))
    assert (done.code, done.out) == (0, "Loaded image: a:b\n")
    assert daemon.find("POST", "/images/load").body == data
