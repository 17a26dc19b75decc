"""When the runtime hangs, each request that needs it fails at its deadline. All other requests work, and nothing is left."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.engine import RUNTIME, Engine, patience, until

pytestmark = pytest.mark.root

SECONDS = int(patience(1))


class Sick:
    """A daemon whose runtime hangs in the commands that a file lists."""

    def __init__(self, engine: Engine, verbs: Path) -> None:
        self.engine = engine
        self._verbs = verbs

    def hang(self, *verbs: str) -> None:
        self._verbs.write_text(" ".join(verbs))

    def fails(self, method: str, path: str, body: Any = None) -> str:
        """Send a request, which must fail at the deadline; other requests must be answered meanwhile."""
        answers: list[tuple[int, Any]] = []
        began = time.monotonic()
        request = threading.Thread(target=lambda: answers.append(self.engine.api(method, path, body)))
        request.start()
        while request.is_alive():
            for question in ("/containers/json?all=1", "/containers/well/json", "/_ping"):
                asked = time.monotonic()
                assert self.engine.api("GET", question)[0] == 200
                assert time.monotonic() - asked < patience(0.8), question
            request.join(0.1)
        assert SECONDS * 0.9 < time.monotonic() - began < 6 * SECONDS
        (status, answer), *_ = answers
        assert status == 500, answer
        return str(answer["message"])


@pytest.fixture
def sick(fresh: Callable[..., Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sick]:
    verbs, wrapper = tmp_path / "verbs", tmp_path / "sick-runtime"
    real = shutil.which(RUNTIME or "runc")
    verbs.write_text("")
    wrapper.write_text(
        f"#!/bin/sh\nfor word; do for verb in $(cat {verbs}); do\n"
        '[ "$word" = "$verb" ] && { sleep 600; exit 9; }\n'  # the child `sleep` must be killed as well
        f'done; done\nexec {real} "$@"\n'
    )
    wrapper.chmod(0o755)
    monkeypatch.setenv("ORLOP_RUNTIME_TIMEOUT", str(SECONDS))
    engine = fresh({"runtimes": {"sick": {"path": str(wrapper)}}, "shutdown-timeout": 3})
    engine.ok("run", "-d", "--name", "well", "busybox", "sleep", "600")
    engine.ok("run", "-d", "--name", "ill", "--runtime", "sick", "busybox", "sleep", "600")
    yield Sick(engine, verbs)
    verbs.write_text("")
    sleepers = [path for path in Path("/proc").glob("[0-9]*/cmdline") if _read(path) == b"sleep\x00600\x00"]
    containers = {parent for name in ("well", "ill") if (parent := engine.inspect(name)["State"]["Pid"])}
    assert {int(path.parent.name) for path in sleepers if _of(path, wrapper)} <= containers


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _of(cmdline: Path, wrapper: Path) -> bool:
    """Whether a `sleep` process belongs to the wrapper: its mount namespace is that of the host or of a monitor, not of a
    container."""
    try:
        return (cmdline.parent / "root").readlink() == Path("/") and str(wrapper).encode() in _read(
            cmdline.parent.parent / str(_parent(cmdline)) / "cmdline"
        )
    except OSError:
        return False


def _parent(cmdline: Path) -> int:
    return int((cmdline.parent / "stat").read_text().rpartition(") ")[2].split()[1])


def test_request_that_needs_a_hung_runtime_fails_at_its_deadline_without_delaying_others(sick: Sick) -> None:
    engine, says = sick.engine, f"sick-runtime: no answer within {SECONDS} s"

    sick.hang("pause")
    text = sick.fails("POST", "/containers/ill/pause")
    assert text == f"cannot pause container {engine.inspect('ill')['Id']}: {says}"
    assert text in engine.log()
    assert engine.state("ill") == "running"
    sick.hang("update")
    assert says in sick.fails("POST", "/containers/ill/update", {"PidsLimit": 50})
    sick.hang("ps")
    assert says in sick.fails("GET", "/containers/ill/top")

    sick.hang("exec")
    made = engine.api("POST", "/containers/ill/exec", {"Cmd": ["true"], "AttachStdout": True})[1]["Id"]
    assert sick.fails("POST", f"/exec/{made}/start", {"Detach": True}).endswith(says)
    found = engine.api("GET", f"/exec/{made}/json")[1]
    assert (found["Running"], found["ExitCode"]) == (False, 126)
    result = engine.docker("exec", "ill", "true")
    assert (result.code, result.out) == (126, f"OCI runtime exec failed: {says}\r\n")
    sick.hang("")
    assert engine.ok("exec", "ill", "echo", "well again") == "well again"

    sick.hang("run")
    engine.ok("create", "--name", "never", "--runtime", "sick", "busybox", "true")
    assert sick.fails("POST", "/containers/never/start").endswith(says)
    state = engine.inspect("never")["State"]
    assert (state["Status"], state["ExitCode"]) == ("created", 128)
    sick.hang("")
    assert engine.docker("start", "-a", "never").code == 0

    # An exit is reported at once, without waiting for the runtime's delete.
    sick.hang("delete", "kill", "resume")
    began = time.monotonic()
    assert engine.ok("kill", "ill") == "ill"
    assert time.monotonic() - began < SECONDS
    assert engine.state("ill") == "exited"
    sick.hang("")
    engine.ok("start", "ill")
    assert engine.ok("exec", "ill", "echo", "again") == "again"
    sick.hang("delete")
    engine.ok("rm", "-f", "ill")
    until(
        lambda: not list((engine.exec_root / "runtime-sick").glob("[!.]*")), "the runtime's state is gone"
    )  # a cache in a hidden directory remains
    engine.ok("run", "-d", "--name", "ill", "busybox", "sleep", "600")
