"""Frontends that are images (`# syntax=`), with dockerd and orlopd. The frontend shares no code with the builder."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.building.clients import Client, Clients, build_clients
from tests.integration.building.frontend.context import write_context
from tests.integration.engine import Engine, patience, until
from tests.integration.parity import Side

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

IMAGE = "tb-frontend"


@pytest.fixture(scope="module")
def clients(shared: Engine, sides: tuple[Side, Side], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    directory = tmp_path_factory.mktemp("frontends")
    write_context(directory / "frontend")
    with build_clients(shared, sides, directory) as found:
        for each in found:
            each.ok("build", "-q", "-t", IMAGE, str(directory / "frontend"))
        yield found


def asks(clients: Clients, do: str, **what: Any) -> None:
    clients.write("Dockerfile", f"# syntax={IMAGE}\n{json.dumps({'do': do, **what})}\n")


def error(each: Client, *options: str) -> str:
    result = each.build(*options, ".")
    assert result.code == 1, result.err
    return result.err.strip().splitlines()[-1]


def test_frontend_image_builds_an_image(clients: Clients) -> None:
    asks(clients, "build", run="echo by the frontend > /made; echo shown")
    for each in clients:
        result = each.build("-t", "tb-made", ".")
        assert result.code == 0, result.err
        assert re.search(r"^#\d+ \d+\.\d+ shown$", result.err, re.MULTILINE)
        assert each.ok("run", "--rm", "--network=none", "tb-made").out == "by the frontend\n"


def test_frontend_can_list_and_read_the_files_of_a_result(clients: Clients) -> None:
    script = "mkdir /dir; cd /dir; echo 0123456789 > a.txt; echo b > b; ln -s b link; chmod 640 b; chown 3:4 a.txt"
    asks(clients, "look", run=script)
    found = []
    for each in clients:
        each.ok("build", "-t", "tb-seen", "--build-arg=X=given", ".")
        found.append(export(each, "tb-seen"))
    assert found[1] == found[0]
    assert ["range", "234"] in found[1]
    assert ["environment", 1, "given"] in found[1]


def export(each: Client, image: str) -> Any:
    """The file that a frontend has put into the image. (The image has no shell.)"""
    ident = each.ok("create", image, "x").line
    try:
        done = each.ok("cp", f"{ident}:/made", "-")
    finally:
        each.run("rm", "-f", ident)
    text = done.stdout
    return json.loads(text[512 : text.index(b"\0", 512)])


def test_warnings_of_a_frontend_are_shown(clients: Clients) -> None:
    asks(clients, "look", run="mkdir /dir; cd /dir; echo 0123456789 > a.txt; echo b > b; ln -s b link")
    for each in clients:
        result = each.ok("build", "--progress=rawjson", ".")
        assert "https://example.com" in result.err


def test_frontend_returns_one_image_per_platform(clients: Clients) -> None:
    platforms = "linux/amd64,linux/arm64"
    asks(clients, "collect", options={"filename": "Other", "platform": platforms, "build-arg:X": "given"})
    clients.write("Other", "FROM scratch\nARG TARGETARCH X\nCOPY <<END /made\n$TARGETARCH $X\nEND\n")
    found = []
    for each in clients:
        each.ok("build", "-t", "tb-both", ".")
        found.append(export(each, "tb-both"))
    assert found[1] == found[0]
    assert found[1][0] == {"linux/amd64": "amd64 given\n", "linux/arm64": "arm64 given\n"}


def test_frontend_can_call_another_frontend(clients: Clients) -> None:
    asks(clients, "forward", to="dockerfile.v0", options={"filename": "Other", "target": "wanted"})
    clients.write("Other", "FROM busybox AS wanted\nRUN echo nested > /made\nCMD cat /made\nFROM busybox\nRUN exit 1\n")
    for each in clients:
        result = each.build("-t", "tb-nested", ".")
        assert result.code == 0, result.err
        assert each.ok("run", "--rm", "--network=none", "tb-nested").out == "nested\n"


def test_error_of_a_nested_frontend_contains_the_exit_code_of_the_failed_step(clients: Clients) -> None:
    asks(clients, "forward", to="dockerfile.v0", options={"filename": "Other"})
    clients.write("Other", "FROM busybox\nRUN exit 7\n")
    for each in clients:
        assert "exit code: 7" in each.build(".").err


def test_frontend_image_can_be_given_as_a_build_argument(clients: Clients) -> None:
    clients.write("Dockerfile", f"first line\n{json.dumps({'do': 'build', 'run': 'echo argument > /made'})}\n")
    for each in clients:
        each.ok("build", "--build-arg", f"BUILDKIT_SYNTAX={IMAGE}", "-t", "tb-argument", ".")
        assert each.ok("run", "--rm", "--network=none", "tb-argument").out == "argument\n"


def test_frontend_gets_the_contexts_of_a_bake_target_as_inputs(clients: Clients) -> None:
    asks(clients, "inputs")
    clients.write(
        "docker-bake.hcl",
        'group "default" {\n  targets = ["a", "b"]\n}\n'
        'target "a" {\n  dockerfile-inline = "FROM busybox\\nRUN echo bake > /made"\n  tags = ["tb-bake-a"]\n}\n'
        'target "b" {\n  contexts = { base = "target:a" }\n  tags = ["tb-bake-b"]\n}\n',
    )
    for each in clients:
        each.ok("buildx", "bake", "--progress=plain")
        assert each.ok("run", "--rm", "--network=none", "tb-bake-b").out == "bake\n"


def test_error_explains_that_a_frontend_lacks_a_capability(clients: Clients) -> None:
    """The error names the capability, and the client explains it."""
    asks(clients, "build", run="true")
    clients.write("Dockerfile", (clients.orlop.directory / "Dockerfile").read_text().replace(IMAGE, "tb-plain"))
    for each in clients:
        each.ok("build", "-q", "-t", "tb-plain", "-", stdin=f"FROM {IMAGE}\nLABEL moby.buildkit.frontend.caps=\n".encode())
    said = clients.same(lambda each: error(each, "--build-context", "x=."))
    assert "Named contexts are supported since Dockerfile v1.4" in str(said)


def test_errors_of_frontends_are_shown(clients: Clients) -> None:
    asks(clients, "fail", message="the frontend refuses")
    assert clients.same(error) == "ERROR: failed to solve: the frontend refuses"
    asks(clients, "broken", how="exit")
    assert "exit code: 3" in error(clients.dockerd)
    mine = clients.orlop.build(".").err
    assert "exit code: 3: the frontend's own words" in mine
    assert ">>> # syntax=" in mine
    asks(clients, "broken", how="silent")
    assert "ended without a result" in error(clients.orlop)


def test_error_contains_the_name_of_a_missing_frontend_image(clients: Clients) -> None:
    clients.write("Dockerfile", "# syntax=localhost:1/none\nFROM busybox\n")
    for each in clients:
        assert "localhost:1/none" in each.build(".").err


def test_builtin_dockerfile_frontend_is_used_instead_of_a_docker_dockerfile_image(clients: Clients) -> None:
    clients.write("Dockerfile", "# syntax=docker/dockerfile:1.7-labs\nFROM busybox\nRUN true\n")
    result = clients.orlop.build(".")
    assert result.code == 0, result.err
    assert "docker/dockerfile:1.7-labs is not pulled: the Dockerfile frontend is part of Orlop" in result.err


def test_frontend_that_calls_itself_recursively_is_stopped(clients: Clients) -> None:
    asks(clients, "broken", how="recursion")
    assert "cannot run more than 8 frontends at the same time" in clients.orlop.build(".").err


def test_build_fails_if_its_frontend_violates_the_protocol(clients: Clients) -> None:
    asks(clients, "broken", how="garbage", sleep=1)
    assert "frontend" in error(clients.orlop)


def processes(engine: Engine, image: str = "/program.py") -> list[int]:
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            line, group = Path(f"/proc/{pid}/cmdline").read_bytes(), Path(f"/proc/{pid}/cgroup").read_text()
        except OSError:
            continue
        if image.encode() in line and engine.cgroup_parent in group:
            found.append(int(pid))
    return found


def test_frontend_is_killed_when_its_build_is_interrupted(clients: Clients, shared: Engine) -> None:
    asks(clients, "broken", how="hang")
    child = clients.orlop.start("build", "--progress=plain", ".")
    assert child.stdout is not None
    seen = b""
    while b"hanging" not in seen:
        line = child.stdout.readline()
        assert line, seen
        seen += line
    assert processes(shared)
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=patience(30))
    until(lambda: not processes(shared), "the end of the frontend")
    shared.until_sound()


def test_frontend_that_keeps_running_after_it_has_returned_a_result_is_killed(clients: Clients, shared: Engine) -> None:
    asks(clients, "broken", how="linger")
    result = clients.orlop.build("-t", "tb-lingered", ".")
    assert result.code == 0, result.err
    assert not processes(shared)
    assert clients.orlop.ok("run", "--rm", "--network=none", "tb-lingered").out == "lingered\n"
