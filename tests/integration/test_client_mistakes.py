"""Mistakes that users make, with docker's client and with orlop on one orlopd. The message of orlop contains docker's
message, or matches the pattern that the table gives for orlop. The exit codes are the same."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.engine import Engine
from tests.integration.test_client_parity import Result, run

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not shutil.which("docker"), reason="no docker client to compare with"),
]
ORLOP = [sys.executable, "-m", "orlop_cli"]

# A command line, and a regular expression of what orlop prints in addition to docker's sentence. If the expression begins
# with "!", orlop does not print docker's sentence, but an equivalent one with the same facts.
MISTAKES: list[tuple[str, str]] = [
    # names
    ("run --pull never busybix", "Did you mean 'busybox'"),
    ("run busybix", "Did you mean 'busybox'"),
    ("exec upp true", "Did you mean 'up'"),
    ("start nope", ""),
    ("logs nope", ""),
    ("inspect nope", ""),
    ("volume rm usedvol", "Did you mean 'used-vol'"),
    ("network connect used-nt new", "Did you mean 'used-net'"),
    ("pull busybox:", ""),
    ("tag parity:1 Upper/Case", ""),
    ("run --name up parity:1", ""),
    ("rename up new", ""),
    # commands and flags
    ("rnu", "!Did you mean 'docker run'"),
    ("container rnu", "Did you mean 'docker container run'"),
    ("ps --formt json", "Did you mean '--format'"),
    ("run --nope parity:1", ""),
    ("ps -f staus=running", ""),
    ("ps --format {{.Nme}}", "!can't evaluate field Nme; known are: .*Names"),
    ("inspect --type bogus up", "!use one of"),
    ("run", "!'docker run' requires at least 1 argument"),
    ("exec up", "!'docker exec' requires at least 2 arguments"),
    # connection
    ("-H unix:///nope.sock ps", "!Cannot connect to .*unix:///nope.sock.*\\(no such file or directory\\)"),
    ("-H unix://HOME/plain.sock ps", "!Cannot connect to .*plain.sock.*\\(connection refused\\)"),
    ("-H tcp://127.0.0.1:1 ps", "!Cannot connect to .*tcp://127.0.0.1:1.*\\(connection refused\\)"),
    ("-H bad://x ps", "!use unix://PATH"),
    ("-c nope ps", ""),
    # ports
    ("run -d -p PORT:80 parity:1 sleep 9", "port PORT is held by .*, pid PID"),
    ("run -d -p HELD:80 parity:1 sleep 9", "port HELD is held by container up"),
    ("run -p 0.0.0.0:99999:80 parity:1", ""),
    ("run -p x:80 parity:1", ""),
    # values
    ("run -m 1k parity:1", ""),
    ("run -m lots parity:1", ""),
    ("run --cpus x parity:1", ""),
    ("run --cpus 1000 parity:1", ""),
    ("run --ulimit nofile parity:1", ""),
    ("run --add-host bad parity:1", ""),
    ("run --dns nope parity:1", ""),
    ("run --sysctl bad parity:1", ""),
    ("run -e =x parity:1", ""),
    ("run --env-file /nope parity:1", ""),
    ("run --env-file HOME/bad.env parity:1", "!HOME/bad.env: variable 'A B' contains whitespaces"),
    ("run --security-opt seccomp=HOME/bad.json parity:1", "!seccomp profile \\(HOME/bad.json\\) failed: .*line 1"),
    ("run -w relative parity:1", ""),
    ("run --cap-add NOPE parity:1", ""),
    ("kill -s NOPE up", ""),
    ("network create --subnet 10.0.0.0/99 x", "!'10.0.0.0/99' does not appear to be"),
    # mounts and devices
    ("run --rm -v relative/path:/x parity:1 true", ""),
    ("run --rm -v /etc:nope parity:1 true", ""),
    ("run --rm --mount type=bind,source=/nope,target=/x parity:1 true", ""),
    ("run --rm --mount source=/nope parity:1 true", ""),
    ("run --rm --mount typo=bind parity:1 true", ""),
    ("run --device /nope parity:1", ""),
    # drivers
    ("volume create -d nope some-vol", ""),
    ("network create -d nope some-net", ""),
    ("run --log-driver nope parity:1", ""),
    ("run --runtime nope parity:1", ""),
    # conflicting flags
    ("run --rm --restart always parity:1", "!cannot specify both --restart and --rm"),
    ("run --health-cmd x --no-healthcheck parity:1", ""),
    ("run --network nope parity:1 true", ""),
    # commands in containers
    ("run --rm parity:1 nope", ""),
    ("run --rm parity:1 /etc", ""),
    ("run --rm -u nobody-here parity:1 true", ""),
    ("exec new true", ""),
    ("exec up nope", ""),
    ("attach new", ""),
    ("top new", ""),
    # objects in use
    ("rmi IMAGE", ""),
    ("volume rm used-vol", "To see the containers that use it: docker explain --type volume used-vol"),
    ("network rm used-net", "To see the containers that use it: docker explain --type network used-net"),
    ("network rm bridge", ""),
    ("rm up", ""),
    # files
    ("cp up:/nope HOME/x", ""),
    ("cp up:/etc /no/such/dir/x", ""),
    ("load -i HOME/not.tar", ""),
    ("import HOME/nope", ""),
    ("build HOME/nope", "!path '?HOME/nope'?: no such file or directory"),
]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """A daemon with two containers of the image parity:1: `up` runs, `new` was only created."""
    made = Engine()
    made.start()
    made.load()
    made.ok("tag", "busybox:latest", "parity:1")
    made.ok("network", "create", "used-net")
    made.ok("create", "--name", "new", "parity:1", "true")
    made.ok(
        *("run", "-d", "--name", "up", "--network", "used-net", "-v", "used-vol:/v", "-p", "127.0.0.1::80"),
        *("parity:1", "sleep", "100000"),
    )
    yield made
    made.docker("rm", "-fv", *made.ok("ps", "-aq").split(), check=0)
    made.docker("network", "rm", "used-net", check=0)
    made.docker("volume", "rm", "used-vol", check=0)
    assert made.close() == []


@pytest.fixture(scope="module")
def values(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The values of HOME, IMAGE, PORT (held by this process), HELD (held by a container) and PID."""
    home = tmp_path_factory.mktemp("home")
    (home / "bad.env").write_text("A B=1\n")
    (home / "bad.json").write_text("{bad")
    (home / "not.tar").write_text("nothing")
    (home / "plain.sock").write_text("")
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        held = engine.ok("port", "up", "80").rpartition(":")[2].strip()
        image = engine.ok("images", "-q", "parity:1").strip()
        port = str(taken.getsockname()[1])
        yield {"HOME": str(home), "IMAGE": image, "PORT": port, "HELD": held, "PID": str(os.getpid())}


def called(engine: Engine, home: Path, program: list[str], words: list[str]) -> Result:
    """Run a client. A container that could not start is removed, so that the next client finds the same state."""
    before = set(engine.ok("ps", "-aq", "--no-trunc").split())
    result = run(engine, home, program, words)
    added = set(engine.ok("ps", "-aq", "--no-trunc").split()) - before
    if added:
        engine.ok("rm", "-f", *added)
    return result._replace(err=re.sub(r"(endpoint) \S+ \(", r"\1 NAME (", result.err))


def filled(text: str, values: dict[str, str], escape: bool = False) -> str:
    return re.sub(r"\b(HOME|IMAGE|PORT|HELD|PID)\b", lambda found: (re.escape if escape else str)(values[found[0]]), text)


def test_table_contains_at_least_forty_different_mistakes() -> None:
    assert len(MISTAKES) >= 40 and len({line for line, _ in MISTAKES}) == len(MISTAKES)


@pytest.mark.parametrize(("line", "more"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_error_message_of_orlop_is_as_helpful_as_that_of_docker(
    engine: Engine, values: dict[str, str], line: str, more: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_BUILDKIT", "0")  # otherwise both clients run the same plugin for builds
    words, home = shlex.split(filled(line, values)), Path(values["HOME"])
    theirs = called(engine, home, ["docker"], words)
    ours = called(engine, home, ORLOP, words)
    assert theirs.code == ours.code != 0
    if not more.startswith("!"):
        assert theirs.err in ours.err
    assert re.search(filled(more.removeprefix("!"), values, escape=True), ours.err, re.DOTALL)
