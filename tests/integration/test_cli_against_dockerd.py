"""The `orlop` client against a dockerd, compared with Docker's client: same output, same exit codes.

The dockerd is started for these tests (own roots and socket, no bridge, no firewall rules), and stopped at the end.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = [pytest.mark.root, pytest.mark.skipif(not shutil.which("dockerd"), reason="no dockerd to compare with")]

BUSYBOX = next(path for path in ("/bin/busybox", "/usr/bin/busybox") if os.path.exists(path))
APPLETS = ("sh", "cat", "echo", "sleep", "true", "false", "env", "seq", "wc", "dd", "pwd", "ls", "stty", "head", "hostname")


class Done(NamedTuple):
    code: int
    out: str
    err: str


class Dockerd:
    def __init__(self, home: Path) -> None:
        self.home = home
        self.host = f"unix://{home}/d.sock"
        self.log = (home / "log").open("wb")
        roots = [f"--data-root={home}/root", f"--exec-root={home}/exec", f"--pidfile={home}/pid"]
        quiet = ["--bridge=none", "--iptables=false", "--ip6tables=false", "-l", "warn"]
        self.process = subprocess.Popen(["dockerd", "-H", self.host, *roots, *quiet], stdout=self.log, stderr=self.log)

    def ready(self) -> None:
        deadline = time.monotonic() + 30
        while self.orlop("info").code:
            assert self.process.poll() is None, (self.home / "log").read_text()
            assert time.monotonic() < deadline, (self.home / "log").read_text()

    def _call(self, command: list[str], stdin: bytes) -> Done:
        environment = {**os.environ, "DOCKER_HOST": self.host, "DOCKER_CONFIG": str(self.home), "TZ": "UTC"}
        done = subprocess.run(command, input=stdin, capture_output=True, env=environment, timeout=50, check=False)
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    def orlop(self, *args: str, stdin: bytes = b"") -> Done:
        return self._call([sys.executable, "-m", "orlop_cli", *args], stdin)

    def docker(self, *args: str, stdin: bytes = b"") -> Done:
        return self._call(["docker", *args], stdin)

    def close(self) -> None:
        found = self.orlop("ps", "-aq").out.split()
        if found:
            self.orlop("rm", "-f", *found)
        self.process.terminate()
        self.process.wait(30)
        self.log.close()


def image() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.add(BUSYBOX, "bin/busybox")
        for name in APPLETS:
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dockerd]:
    made = Dockerd(tmp_path_factory.mktemp("dockerd"))
    try:
        made.ready()
        assert made.orlop("import", "-", "busybox:latest", stdin=image()).code == 0
        common = ["run", "-d", "--network", "none"]
        assert made.orlop(*common, "--name", "up", "-l", "a=b", "-p", "8080:80", "busybox", "sleep", "1000").code == 0
        assert made.orlop(*common, "--name", "said", "busybox", "sh", "-c", "echo a; echo b >&2; exit 3").code == 0
        assert made.orlop("wait", "said").out == "3\n"
        assert made.orlop("create", "--network", "none", "-v", "/tmp:/t", "--name", "new", "busybox", "true").code == 0
        yield made
    finally:
        made.close()


def plain(text: str) -> str:
    """The output without the clients' names, without Docker's hint to read its help, and without values that change between
    two calls: ages (which affect the width of columns) and the processor time that ps shows."""
    text = re.sub(r"(?m)^(orlop|docker): |\.$|^See 'docker.*\n?", "", text)
    text = re.sub(r"(\d+ +\d+ +)\d+( +\d\d:\d\d +\? +)[\d:]+", r"\1C\2T", text)
    return re.sub(r" {2,}", "  ", re.sub(r"Less than a second|\b\d+ seconds?\b|About a minute", "N", text))


RUN = ["run", "--rm", "--network", "none"]
SAME = [
    ["ps"],
    ["ps", "-a", "--no-trunc"],
    ["ps", "-aq"],
    ["ps", "-as"],
    ["ps", "-a", "-f", "status=exited"],
    ["ps", "-f", "bogus=1"],
    ["ps", "-a", "--format", 'table {{.ID}}\\t{{.Names}}\\t{{.Label "a"}}'],
    [
        "ps",
        "-a",
        "--format",
        "{{.Names}} {{.Image}} {{.Command}} {{.Status}} {{.Mounts}} {{.Networks}} {{.Size}} {{.State}}",
    ],
    ["ps", "--format", '{{upper .Names}}:{{pad .State 2 2}}|{{truncate .ID 3}}|{{join (split .Image "u") "-"}}'],
    ["images"],
    ["images", "-q", "--no-trunc"],
    ["images", "--digests"],
    ["inspect", "up", "said"],
    ["inspect", "-f", '{{.State.Status}} {{json .Config.Labels}} {{len .Config.Cmd}} {{index .Config.Labels "a"}}', "up"],
    [
        "inspect",
        "-f",
        "{{range $k, $v := .Config.Labels}}{{$k}}={{$v}};{{end}}{{if .State.Running}}up{{else}}down{{end}}",
        "up",
    ],
    ["network", "inspect", "none"],
    ["network", "ls"],
    ["volume", "ls"],
    ["top", "up"],
    ["top", "up", "-eo", "pid,args"],
    ["port", "up"],
    ["logs", "said"],
    ["logs", "--tail", "1", "said"],
    ["logs", "nope"],
    ["events", "--since", "10m", "--until", "0s", "-f", "container=said"],
    ["version", "-f", "{{.Server.Version}}"],
    ["info", "-f", "{{.Driver}} {{.NCPU}}"],
    ["exec", "up", "true"],
    ["exec", "up", "sh", "-c", "echo o; echo e >&2; exit 9"],
    ["exec", "up", "nope"],
    ["exec", "-w", "/nope", "up", "true"],
    ["exec", "new", "true"],
    ["exec", "nope", "true"],
    ["stop", "nope"],
    ["kill", "new"],
    ["pause", "new"],
    ["wait", "said", "nope"],
    ["rm", "up"],
    ["rm", "-f", "nope"],
    ["rmi", "nope"],
    ["volume", "rm", "nope"],
    ["network", "rm", "none"],
    [*RUN, "busybox", "sh", "-c", "echo o; echo e >&2; exit 7"],
    [*RUN, "busybox", "sh", "-c", "kill -9 $$"],
    [*RUN, "busybox", "nope"],
    [*RUN, "busybox", "/bin"],
    [*RUN, "-e", "A=1", "-w", "/bin", "--entrypoint", "sh", "busybox", "-c", "pwd; echo $A"],
    [*RUN, "-h", "here", "--tmpfs", "/t:size=1m", "busybox", "sh", "-c", "hostname; grep -c ' /t ' /proc/mounts"],
    [*RUN, "-u", "nobody-here", "busybox", "true"],
    ["run", "--network", "nope", "busybox", "true"],
    ["run", "--name", "up", "busybox", "true"],
    ["run", "-m", "1k", "busybox", "true"],
    ["run", "--cpus", "1000", "busybox", "true"],
    ["run", "--pull", "never", "nope:1"],
    ["run", "-v", "a:b:c:d", "busybox"],
]


@pytest.mark.parametrize("args", SAME, ids=" ".join)
def test_orlop_prints_the_same_as_docker(daemon: Dockerd, args: list[str]) -> None:
    ours, theirs = daemon.orlop(*args), daemon.docker(*args)
    assert ours.code == theirs.code
    if args[0] != "ps" or "--no-trunc" not in args:
        assert plain(ours.out) == plain(theirs.out)
    assert plain(ours.err) == plain(theirs.err)


def test_orlop_run_passes_large_input_and_output_unchanged(daemon: Dockerd) -> None:
    data = os.urandom(4 << 20).hex().encode()
    done = daemon.orlop(*RUN, "-i", "busybox", "sh", "-c", "cat; echo after", stdin=data)
    assert done == Done(0, data.decode() + "after\n", "")
    assert daemon.orlop(*RUN, "-i", "busybox", "wc", "-c", stdin=data).out == f"{len(data)}\n"


def test_container_commands_of_orlop_work_against_dockerd(daemon: Dockerd) -> None:
    assert len(daemon.orlop("run", "-d", "--name", "life", "--network", "none", "busybox", "sleep", "1000").out) == 65
    assert daemon.orlop("pause", "life").out == "life\n"
    assert "(Paused)" in daemon.orlop("ps", "-f", "name=life").out
    assert daemon.orlop("unpause", "life").out == "life\n"
    assert daemon.orlop("restart", "-t", "0", "life").out == "life\n"
    assert daemon.orlop("stop", "-t", "0", "life").out == "life\n"
    assert daemon.orlop("inspect", "-f", "{{.State.ExitCode}}", "life").out == "137\n"
    assert daemon.orlop("rename", "life", "after").code == 0
    assert daemon.orlop("rm", "after", "life") == Done(
        1, "after\n", "orlop: Error response from daemon: No such container: life\n"
    )


def test_image_and_volume_commands_of_orlop_work_against_dockerd(daemon: Dockerd) -> None:
    assert daemon.orlop("tag", "busybox", "x/y:1").code == 0
    assert daemon.orlop("images", "--format", "{{.Repository}}:{{.Tag}}", "x/y").out == "x/y:1\n"
    assert daemon.orlop("rmi", "x/y:1").out == "Untagged: x/y:1\n"
    assert daemon.orlop("volume", "create", "--label", "a=b", "v1").out == "v1\n"
    assert daemon.orlop("volume", "ls", "-q", "-f", "label=a=b").out == "v1\n"
    assert daemon.orlop("volume", "rm", "v1").out == "v1\n"


def test_orlop_stats_works_against_dockerd(daemon: Dockerd) -> None:
    done = daemon.orlop("stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}} {{.MemUsage}}", "up")
    assert re.fullmatch(r"up 1 [\d.]+[KM]iB / [\d.]+[GM]iB\n", done.out)
