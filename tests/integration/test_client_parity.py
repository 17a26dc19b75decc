"""docker's client and orlop run the same command lines with one orlopd. Output and exit codes are the same, except for
DIFFERENCES."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.integration.engine import Engine, until

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not shutil.which("docker"), reason="no docker client to compare with"),
]

LINES = [
    shlex.split(line)
    for line in (Path(__file__).parent / "client_lines.txt").read_text().splitlines()
    if not line.startswith("#")
]
VERSION = "26.1."


class Difference(NamedTuple):
    """A permitted difference. `lines` and `ours` are regular expressions: `lines` matches the command line, `ours` the
    output of orlop."""

    reason: str
    lines: str
    ours: str
    other_code: bool = False  # whether exit codes differ, too


DIFFERENCES = [
    Difference(
        "templates: messages do not name Go's types and columns, but known fields", ".*{{.*", "template parsing error:"
    ),
    Difference("IPv6 addresses of ports are in brackets, as from docker 28 on", ".*", r"\[::\]:"),
    Difference("numbers of arguments are worded as from docker 28 on", ".*", r"requires|accepts no arguments"),
    Difference("images have the fields of API 1.43", ".*(VirtualSize|ContainerConfig|image inspect).*", "(?s).*"),
    Difference("fields of `info` have also their names in JSON", "info -f {{.HttpProxy}}", ".*", True),
    Difference("the client checks subnets, and says what is wrong", "network create --subnet.*", "invalid subnet"),
    Difference("a wrong --type names the types", "inspect --type bogus.*", "is not a valid value for --type: use one of"),
    Difference("conflicting flags are worded as from docker 28 on", "run .*--restart.*", "conflicting options"),
    Difference("a platform is checked by the daemon", "run .*--platform bad.*", "cannot parse platform specifier"),
    Difference("unknown commands are answered with a suggestion", "(container |help )?nope", "is not a command of"),
    Difference("`logs` accepts several containers", "logs gone up", r"gone \| one", True),
    Difference("checkpoints need no experimental daemon", "checkpoint", "Manage checkpoints|^$", True),
    Difference("a wrong address is answered with the known forms", "-H bad.*", "use unix://PATH"),
]


class Result(NamedTuple):
    code: int
    out: str
    err: str


def run(engine: Engine, home: Path, program: list[str], words: list[str]) -> Result:
    environment = {**os.environ, "DOCKER_HOST": f"unix://{engine.socket}", "DOCKER_CONFIG": str(home), "TZ": "UTC"}
    for name in ("DOCKER_CONTEXT", "ORLOP_HOST"):
        environment.pop(name, None)
    done = subprocess.run(
        [*program, *words],
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
        check=False,
    )
    return Result(done.returncode, plain(done.stdout), plain(done.stderr))


def plain(text: str) -> str:
    """The output without the clients' names, their help, ids, and parts that change between two calls."""
    text = re.sub(r"(?m)^(orlop|docker): |\.$|^See 'docker.*\n?", "", text)
    text = text.replace("orlop", "docker").replace("Orlop", "Docker")
    text = re.sub(r"\s*Usage:.*", "", text, flags=re.DOTALL)
    text = re.sub(r"\d{4}-\d\d-\d\d[T ][\d:.]+Z?", "TIME", text)
    text = re.sub(r"Less than a second|\b\d+ (seconds?|minutes?)\b|About a minute", "N", text)
    text = re.sub(r"\b[0-9a-f]{64}\b|\b[0-9a-f]{12}\b", "HEX", text)
    text = re.sub(r"(\d+ +\d+ +)\d+( +\d\d:\d\d +\? +)[\d:]+", r"\1C\2T", text)  # processor time of `top`
    return re.sub(r"[ \t]{2,}", "  ", text).strip()


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """A daemon without objects of other tests: the clients show some images differently, and prune commands remove some."""
    made = Engine()
    made.start()
    made.load()
    yield made
    assert made.close() == []


@pytest.fixture(scope="module")
def results(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[tuple[list[str], Result, Result]]]:
    home = tmp_path_factory.mktemp("client")
    port = str(20000 + os.getpid() % 20000)

    def docker(*words: str) -> None:
        done = run(engine, home, ["docker"], list(words))
        assert done.code == 0, done

    docker("tag", "busybox:latest", "parity:1")
    docker("network", "create", "--label", "a=b", "--internal", "parity-net")
    mounts = ["-v", "parity-vol:/v", "-v", "/tmp:/t"]
    try:
        docker("run", "-d", "--name", "up", "-l", "a=b", "-v", "parity-vol:/v", "parity:1", "sleep", "100000")
        docker("run", "-d", "--name", "gone", "parity:1", "sh", "-c", "echo one; echo two; exit 3")
        health = [
            "--health-cmd",
            "true",
            "--health-interval",
            "1h",
            "--health-start-period",
            "1h",
            "--health-start-interval",
            "1s",
        ]
        flags = ["-l", "a=c", "-e", "X=1", "-p", f"{port}:80", "--restart", "on-failure:3", "-m", "32m"]
        docker("run", "-d", "--name", "hc", *health, *flags, *mounts, "parity:1", "sleep", "100000")
        docker("wait", "gone")
        until(lambda: "healthy" in run(engine, home, ["docker"], ["ps", "-f", "health=healthy"]).out, "hc is healthy")
        lines = [[word.replace("PORT", port) for word in line] for line in LINES]
        reading = [line for line in lines if any("{{" in word for word in line)]
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(lambda line: (line, *pair(engine, home, line)), reading))
        # One at a time: lines that create a container would show in lists of containers.
        yield found + [(line, *pair(engine, home, line)) for line in lines if line not in reading]
    finally:
        for words in (["rm", "-fv", "up", "gone", "hc"], ["network", "rm", "parity-net"], ["rmi", "-f", "parity:1"]):
            run(engine, home, ["docker"], words)
        run(engine, home, ["docker"], ["volume", "rm", "parity-vol"])


def pair(engine: Engine, home: Path, line: list[str]) -> tuple[Result, Result]:
    theirs = run(engine, home, ["docker"], line)
    ours = run(engine, home, [sys.executable, "-m", "orlop_cli"], line)
    ours = ours._replace(err=_NEXT.sub("", ours.err).strip())
    if "images" in line or "image" in line:  # docker does not define the order of images of the same age
        theirs, ours = (each._replace(out="\n".join(sorted(each.out.splitlines()))) for each in (theirs, ours))
    return theirs, ours


# Lines that orlop adds to an error that names the same facts as docker's
_NEXT = re.compile(r"(?m)^(To see the containers that use it|To free the port|To see the process|port \d+ is held by).*\n?")


def explained(line: list[str], ours: Result) -> Difference | None:
    command, text = " ".join(line), f"{ours.out}\n{ours.err}".strip()
    return next((one for one in DIFFERENCES if re.fullmatch(one.lines, command) and re.search(one.ours, text)), None)


def test_orlop_prints_the_same_as_docker(results: list[tuple[list[str], Result, Result]]) -> None:
    version = subprocess.run(["docker", "--version"], capture_output=True, text=True, check=True).stdout
    if VERSION not in version:
        pytest.skip(f"the differences are those to docker {VERSION}x, installed is {version.strip()}")
    assert len(results) >= 400 and len(DIFFERENCES) <= 15
    used, wrong = set(), []
    for line, theirs, ours in results:
        if theirs == ours:
            continue
        difference = explained(line, ours)
        if difference is None:
            wrong.append(f"{shlex.join(line)}\n  docker {theirs}\n  orlop  {ours}")
        else:
            used.add(difference)
            if theirs.code != ours.code and not difference.other_code:
                wrong.append(f"{shlex.join(line)}: exit code {theirs.code}, orlop {ours.code}")
    assert not wrong, "\n".join(wrong)
    assert not set(DIFFERENCES) - used, "these differences do not exist any more"
