"""Containers that a frontend makes over the gateway protocol, with dockerd and orlopd."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from tests.integration.building.clients import Client, Clients, build_clients
from tests.integration.building.frontend.context import write_context
from tests.integration.engine import Engine, patience
from tests.integration.parity import Side

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

IMAGE = "tb-containers"
NEW = {"new": "c"}


@pytest.fixture(scope="module")
def clients(shared: Engine, sides: tuple[Side, Side], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    directory = tmp_path_factory.mktemp("containers")
    write_context(directory / "frontend")
    with build_clients(shared, sides, directory) as found:
        for each in found:
            each.ok("build", "-q", "-t", IMAGE, str(directory / "frontend"))
        yield found


def sh(script: str, process: str = "p", container: str = "c", **more: Any) -> dict[str, Any]:
    return {"start": process, "container": container, "args": ["sh", "-c", script], **more}


def result(each: Client, *options: str) -> Any:
    """The report of the frontend, which is a file of the image that the frontend makes."""
    done = each.run("build", "--progress=plain", "-t", "tb-result", *options, ".")
    assert done.code == 0, f"{each.name}: {done.err}"
    ident = each.ok("create", "tb-result", "x").line
    try:
        text = each.ok("cp", f"{ident}:/made", "-").stdout
    finally:
        each.run("rm", "-f", ident)
    return json.loads(text[512 : text.index(b"\0", 512)])


def ask(clients: Clients, *steps: dict[str, Any]) -> None:
    clients.write("Dockerfile", f"# syntax={IMAGE}\n{json.dumps({'do': 'contain', 'steps': steps})}\n")


def same(clients: Clients, *steps: dict[str, Any], options: tuple[str, ...] = ()) -> dict[str, Any]:
    """The result of each process, by name. dockerd and Orlop must give equal results."""
    ask(clients, *steps)
    found: Any = clients.same(lambda each: result(each, *options))
    return {each["process"]: each for each in found if "process" in each}


def mine(clients: Clients, *steps: dict[str, Any]) -> list[Any]:
    ask(clients, *steps)
    found: list[Any] = result(clients.orlop)
    return found


def test_frontend_gets_the_output_and_the_exit_code_of_each_process(clients: Clients) -> None:
    found = same(
        clients,
        NEW,
        sh("echo out; echo err >&2; env | sort; id -u; pwd; hostname; exit 7"),
        {"wait": "p"},
        {"new": "d"},
        sh("cat; echo done; whoami; env | sort", "q", "d", fds=[0, 1], env=["A=b", "PATH=/bin"], user="nobody", cwd="/tmp"),
        {"input": "q", "text": "first\n"},
        {"expect": "q", "text": "first"},
        {"input": "q", "text": "second\n", "end": True},
        {"wait": "q"},
        {"release": "d"},
        {"new": "e"},
        {"start": "r", "container": "e", "args": ["true"], "fds": []},
        {"wait": "r"},
    )
    assert found["p"]["exit"][0] == 7 and found["p"]["err"] == "err\n"
    assert found["q"]["out"].startswith("first\nsecond\ndone\nnobody\nA=b\n")
    assert found["r"]["exit"] == [0, ""]


def test_terminal_of_a_process_can_be_resized_and_passes_input(clients: Clients) -> None:
    sized = 'while [ "$(stty size 2>/dev/null)" != "33 77" ]; do sleep 0.05; done; '
    sized += "echo ready; read x; echo $TERM $x; tty; exit 3"
    again = sized.replace("33 77", "44 88").replace("exit 3", "exit 0")
    found = same(
        clients,
        NEW,
        sh(sized, fds=[0, 1, 2], tty=True),
        sh(again, "q", fds=[0, 1], tty=True),
        {"resize": "q", "rows": 44, "cols": 88},
        {"expect": "q", "text": "ready"},
        {"input": "q", "text": "other\n"},
        {"wait": "q", "close": True},
        {"resize": "p", "rows": 33, "cols": 77},
        {"expect": "p", "text": "ready"},
        {"input": "p", "text": "hello\n"},
        {"wait": "p", "close": True},
    )
    assert found["p"]["out"].endswith("xterm hello\r\n/dev/pts/0\r\n") and found["p"]["exit"][0] == 3
    assert found["q"]["out"].endswith("xterm other\r\n/dev/pts/1\r\n")


def test_process_gets_the_signals_that_the_frontend_sends(clients: Clients) -> None:
    waiting = "trap 'echo hup; exit 9' HUP; trap 'echo usr; exit 0' USR1; echo ready; while :; do sleep 0.05; done"
    found = same(
        clients,
        NEW,
        sh(waiting),
        sh(waiting, "q"),
        {"expect": "p", "text": "ready"},
        {"expect": "q", "text": "ready"},
        {"signal": "q", "name": "USR1"},
        {"wait": "q"},
        {"signal": "p", "name": "HUP"},
        {"wait": "p"},
    )
    assert [found[name]["exit"][0] for name in "pq"] == [9, 0]
    killed = [{"signal": "p", "name": "KILL"}, {"wait": "p"}]
    unknown = [{"new": "d"}, sh("sleep 100", "q", "d"), {"signal": "q", "name": "NOTHING"}, {"wait": "q"}]
    ends = mine(clients, NEW, sh("sleep 100"), *killed, *unknown)
    assert ends[1]["exit"] == [137, "exit code: 137"]
    assert ends[3] == {"error": 3, "message": "invalid signal: NOTHING"}


def test_all_processes_of_a_container_end_when_its_first_process_exits(clients: Clients) -> None:
    found = same(
        clients,
        NEW,
        sh("echo $$; hostname; read x", fds=[0, 1]),
        sh("cat /proc/1/cmdline | head -c 2; id -u; pwd", "q", user="1000", cwd="/tmp"),
        {"wait": "q"},
        {"input": "p", "text": "\n", "end": True},
        {"wait": "p"},
    )
    assert found["p"]["out"] == "1\nbuildkitsandbox\n" and found["q"]["out"] == "sh1000\n/tmp\n"
    # In BuildKit, a process that fails ends the whole container
    ends = mine(
        clients,
        NEW,
        sh("read x", fds=[0, 1]),
        sh("sleep 100", "q"),
        sh("exit 5", "r"),
        {"wait": "r"},
        {"input": "p", "end": True},
        {"wait": "p"},
        {"wait": "q"},
        sh("true", "s"),
        {"wait": "s"},
        {"release": "c"},
        {"release": "c"},
    )
    assert [each["exit"][0] for each in ends[1:5]] == [5, 1, 137, 255]
    assert ends[4]["exit"][1] == "container c has stopped"
    assert ends[5:] == [{"release": "c"}, {"error": 5, "message": 'container "c" previously released or not created'}]


def test_failed_start_of_a_process_is_reported_to_the_frontend(clients: Clients) -> None:
    ask(clients, NEW, {"start": "p", "container": "c", "args": ["/nothing"]}, {"wait": "p"})
    for each in clients:
        [_, found] = result(each)
        assert found["exit"] == [1, "exit code: 1"]
        assert (
            'unable to start container process: exec: "/nothing": stat /nothing: no such file or directory' in found["err"]
        )
    ends = mine(
        clients,
        NEW,
        sh("sleep 100"),
        {"start": "q", "container": "c", "args": ["/nothing"], "tty": True},
        {"wait": "q"},
        {"start": "r", "container": "c", "args": []},
        {"wait": "r"},
        sh("true", "s", user="nobody-here"),
        {"wait": "s"},
        sh("true", "t", container="none", started=False),
        {"wait": "t"},
    )[1:]
    assert ends[0]["exit"][0] == 1 and "/nothing" in ends[0]["out"]
    assert ends[1]["exit"] == [255, "the process has no command"]
    assert ends[2]["exit"][0] == 255 and "nobody-here" in ends[2]["exit"][1]
    assert ends[3]["error"] == 5


def test_container_sees_the_files_of_its_mounts(clients: Clients) -> None:
    secret = clients.orlop.directory.parent / "secret"
    secret.write_text("of the client")
    root = {"dest": "/", "run": "mkdir /made; echo a > /made/a; echo b > /made/b"}
    mounts = [
        root,
        {"dest": "/read", "run": root["run"], "selector": "/made", "readonly": True},
        {"dest": "/write", "run": root["run"], "selector": "made"},
        {"dest": "/scratch"},
        {"dest": "/tmp/memory", "mountType": 4},
        {"dest": "/cached", "mountType": 3, "cacheOpt": {"ID": "tb-containers"}},
        {"dest": "/run/secret", "mountType": 1, "secretOpt": {"ID": "s", "mode": 0o400}},
    ]
    script = """
        cat /made/a /read/b /write/a /run/secret; echo; echo $TOKEN
        touch /read/c 2>/dev/null || echo read-only
        touch /made/c /write/c /scratch/c /tmp/memory/c /cached/c; ls /made /read /write /scratch /tmp/memory
        grep -c ' /tmp/memory tmpfs ' /proc/mounts
    """
    again = "ls /made /write /scratch /cached"
    tokens = [{"ID": "s", "name": "TOKEN"}]
    found = same(
        clients,
        {"new": "c", "mounts": mounts},
        sh(script, secretenv=tokens),
        {"wait": "p"},
        {"release": "c"},
        {"new": "d", "mounts": mounts},
        sh(again, "q", "d"),
        {"wait": "q"},
        options=("--secret", f"id=s,src={secret}"),
    )
    assert found["p"]["out"].startswith("a\nb\na\nof the client\n") and "read-only" in found["p"]["out"]
    assert found["q"]["out"] == "/cached:\nc\n\n/made:\na\nb\n\n/scratch:\n\n/write:\na\nb\n"
    # BuildKit 0.12 mounts the root for writing
    [_, last] = mine(
        clients, {"new": "e", "mounts": [{**root, "readonly": True}]}, sh("touch /x", container="e"), {"wait": "p"}
    )
    assert "Read-only file system" in last["err"]


class Terminal:
    """The docker client on a terminal."""

    def __init__(self, each: Client, *argv: str) -> None:
        ours, theirs = pty.openpty()
        self._fd = ours
        self.child = subprocess.Popen(
            ["docker", *argv],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**each.env, "BUILDX_EXPERIMENTAL": "1", "TERM": "xterm"},
            cwd=each.directory,
            start_new_session=True,
        )
        os.close(theirs)
        self.seen = b""

    def expect(self, text: str) -> str:
        """Wait for a text. Returns the output before it."""
        end = time.monotonic() + patience(60)
        while text.encode() not in self.seen:
            assert time.monotonic() < end, f"no {text!r} in {self.seen!r}"
            if select.select([self._fd], [], [], 0.5)[0]:
                try:
                    self.seen += os.read(self._fd, 65536).replace(b"\r", b"")
                except OSError as error:
                    raise AssertionError(self.seen.decode("utf-8", "replace")) from error
        before, _, self.seen = self.seen.partition(text.encode())
        return before.decode()

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def close(self) -> None:
        with suppress(ProcessLookupError):
            self.child.kill()
        self.child.wait()
        os.close(self._fd)


def shell(each: Client, on: str, script: str, end: str) -> str:
    """Run a script in the shell that buildx opens. Returns its output up to `end`."""
    options = ["buildx", "debug", "--detach=false", f"--on={on}", "--invoke", "/bin/sh", "build", "--progress=plain", "."]
    terminal = Terminal(each, *options)
    try:
        terminal.expect("/ # ")
        terminal.type(f"{script}\n")
        said = terminal.expect(end)
        terminal.expect("/ # ")
        terminal.type("exit\n")
        terminal.expect("(buildx) ")
        return said
    finally:
        terminal.close()


def test_buildx_debug_runs_a_shell_in_the_result(clients: Clients, shared: Engine) -> None:
    clients.write("Dockerfile", "FROM busybox\nRUN echo of the build > /made\nENV X=y\n")
    for each in clients:
        said = shell(each, "always", "cat /made; echo $X; hostname; echo $((6*7))", "42\n")
        assert "of the build\ny\nbuildkitsandbox\n" in said
    shared.until_sound()


def test_buildx_debug_runs_a_shell_in_a_failed_step(clients: Clients, shared: Engine) -> None:
    """The shell also sees the files that the failed command has written."""
    clients.write("given", "of the context\n")
    step = "RUN --mount=target=/ctx --mount=type=cache,target=/c echo written > /made; touch /c/x; exit 3"
    clients.write("Dockerfile", f"FROM busybox\nRUN echo before > /before\n{step}\n")
    for each in clients:
        said = shell(each, "error", "cat /before /made /ctx/given; ls /c; echo $((6*7))", "42\n")
        assert "before\nwritten\nof the context\nx\n" in said, each.name
    shared.until_sound()
    assert clients.orlop.build(".").err.count("exit code: 3") >= 1
