"""Shell completion: the values that a shell gets for the words of a command line."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orlop_cli._table import TABLE
from orlop_cli.testing import RecordedDaemon, answer

CONTAINERS = [
    {"Names": ["/web", "/db/alias"], "State": "running"},
    {"Names": ["/web-old"], "State": "exited"},
]
Complete = Callable[..., list[str]]


@pytest.fixture
def complete(daemon: RecordedDaemon, clean: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Complete:
    """Complete a command line whose last word is incomplete. Returns the values; a file is shown as "<file>"."""
    daemon.on("GET", "/containers/json", answer(CONTAINERS))
    daemon.on("GET", "/images/json", answer([{"RepoTags": ["busybox:latest", "alpine:3"]}, {"RepoTags": None}]))
    daemon.on("GET", "/networks", answer([{"Name": "bridge"}, {"Name": "back"}]))
    daemon.on("GET", "/volumes", answer({"Volumes": [{"Name": "data"}]}))
    monkeypatch.setenv("DOCKER_HOST", daemon.host)
    monkeypatch.setenv("DOCKER_BUILDKIT", "0")  # otherwise the client runs this machine's plugin for `build`

    def call(*words: str) -> list[str]:
        environment = {
            "COMP_LINE": " ".join(["orlop", *words]),
            "_ORLOP_COMPLETE": "bash_complete",
        }
        code = f"import os; os.environ |= {environment}; from orlop_cli.__main__ import main; main()"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert not done.stderr
        found = [line.partition(",")[::2] for line in done.stdout.split()]
        return [f"<{kind}>" if kind == "file" else value for kind, value in found]

    return call


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["network", "con"], ["connect"]),
        (["run", "--network-al"], ["--network-alias"]),
        (["rm", ""], ["web", "web-old"]),
        (["rm", "web", ""], ["web-old"]),
        (["stop", "web"], ["web", "web-old"]),
        (["start", ""], ["web-old"]),
        (["run", "bu"], ["busybox", "busybox:latest"]),
        (["run", "busybox", ""], []),
        (["rmi", "al"], ["alpine:3"]),
        (["rmi", "alpine:"], ["alpine:3"]),
        (["rmi", "busybox:latest", "alpine:3", "busy"], ["busybox"]),
        (["tag", "al"], ["alpine:3"]),
        (["network", "connect", ""], ["back", "bridge"]),
        (["network", "connect", "back", ""], ["web", "web-old"]),
        (["network", "connect", "back", "web", ""], []),
        (["run", "--network", "ba"], ["back"]),
        (["run", "--network=ba"], ["back"]),
        (["run", "--env-file", ""], ["<file>"]),
        (["volume", "rm", ""], ["data"]),
        (["inspect", "b"], ["back", "bridge", "busybox", "busybox:latest"]),
        (["cp", "web:/etc/passwd", ""], ["<file>"]),
        (["build", "do"], ["<file>"]),
    ],
)
def test_object_names_file_paths_and_flags_are_completed(complete: Complete, words: list[str], expected: list[str]) -> None:
    assert complete(*words) == expected


def test_contexts_are_completed(complete: Complete, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from orlop_cli.daemon import contexts

    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    contexts.write(contexts.Context("far", {"Name": "far", "Endpoints": {"docker": {"Host": "unix:///x"}}}))
    assert complete("context", "use", "") == ["default", "far"]
    assert complete("context", "rm", "f") == ["far"]
    assert complete("context", "create", "") == []
    assert complete("-c", "f") == ["far"]


def test_completion_of_stop_suggests_only_running_containers(complete: Complete, daemon: RecordedDaemon) -> None:
    complete("stop", "")
    assert daemon.requests[-1].target.endswith("?all=0")
    complete("rm", "")
    assert daemon.requests[-1].target.endswith("?all=1")


def test_missing_daemon_gives_no_completions(complete: Complete, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    assert complete("rm", "") == []


def test_hanging_daemon_gives_no_completions(complete: Complete, daemon: RecordedDaemon) -> None:
    daemon.on("GET", "/containers/json", lambda *_: time.sleep(5))
    began = time.monotonic()
    assert complete("rm", "") == []
    assert time.monotonic() - began < 4


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_requests_completions_for_its_shell(orlop: Any, shell: str) -> None:
    assert f"_ORLOP_COMPLETE={shell}_complete" in orlop("completion", shell).out


def test_unknown_shell_is_refused(orlop: Any) -> None:
    result = orlop("completion", "tcsh")
    assert (result.code, result.err) == (1, "orlop: cannot complete in 'tcsh': supported shells are bash, fish, zsh\n")


@pytest.fixture
def program(complete: Complete, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`orlop` in the path, for shells."""
    program = tmp_path / "orlop"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m orlop_cli "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


@pytest.mark.usefixtures("program")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("orlop rm we", ["web", "web-old"]),
        ("orlop rmi alpine:", ["3"]),
        ("orlop run --rm busybox:la", ["latest"]),
        ("orlop run --network=ba", ["back"]),
    ],
)
def test_bash_completes_names_of_containers_images_and_networks(line: str, expected: list[str]) -> None:
    """Runs Bash itself with the script that `orlop completion bash` prints. Bash replaces the text after the last colon."""
    press_tab = f"COMP_LINE='{line} and more' COMP_POINT={len(line)}; _orlop_completion orlop; echo \"${{COMPREPLY[@]}}\""
    script = f'eval "$(orlop completion bash)"; {press_tab}'
    done = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.split() == expected, done.stderr


@pytest.mark.usefixtures("program")
@pytest.mark.skipif(not shutil.which("fish"), reason="fish is not installed")
def test_fish_completes_names() -> None:
    script = 'orlop completion fish | source; complete -C "orlop rm we"'
    done = subprocess.run(["fish", "--no-config", "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["web", "web-old"], done.stderr


@pytest.mark.usefixtures("complete")
def test_completion_takes_less_processor_time_than_its_budget() -> None:
    """The budget is 150 ms on a machine on which a bare Python takes 12 ms. The best of several runs is compared, because
    other processes only add time."""
    environment = {**os.environ, "COMP_LINE": "orlop rm we", "_ORLOP_COMPLETE": "bash_complete"}
    best = min(cpu_of([sys.executable, "-m", "orlop_cli"], environment) for _ in range(5))
    bare = min(cpu_of([sys.executable, "-c", "pass"], environment) for _ in range(5))
    assert best < 0.150 * max(1.0, bare / 0.012), f"{best * 1000:.0f} ms, bare Python {bare * 1000:.0f}"


def cpu_of(command: list[str], environment: dict[str, str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_every_command_is_completed(complete: Complete) -> None:
    assert set(TABLE) <= set(complete(""))
