"""Conformance suite for runtime drivers, and a verified fake.

    from orlop_sdk.testing.runtime import RuntimeSuite

    @pytest.mark.root
    class TestMine(RuntimeSuite):
        @pytest.fixture
        def driver(self, tmp_path):
            return MyRuntime(RuntimeContext("mine", "/usr/bin/mine", str(tmp_path / "state")))

The suite runs the driver's commands on a bundle whose root file system holds the host's `/bin/busybox`, which must be
static. `FakeRuntime` starts ordinary processes, needs no root, and passes the same suite.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from orlop_sdk import (
    Command,
    Execution,
    Mount,
    Outcome,
    Runtime,
    RuntimeCapabilities,
    RuntimeCheckpoints,
    RuntimeContext,
    Task,
    cgroups,
)

__all__ = ["FakeRuntime", "RuntimeSuite", "busybox_root", "oci_process", "oci_spec"]

_APPLETS = ("sh", "cat", "dd", "echo", "head", "id", "sleep", "stty", "tr", "true", "wc", "yes")
_LONGEST = 900.0  # seconds
_HEARD = 10.0  # seconds that a task may take to handle a signal
_ENV = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm")


def busybox_root(path: Path) -> Path:
    """Make a root file system with a static busybox and links to it."""
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
        (path / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", path / "bin/busybox")
    for applet in _APPLETS:
        (path / "bin" / applet).symlink_to("busybox")
    return path


def oci_process(args: Sequence[str], terminal: bool = False) -> dict[str, Any]:
    capabilities = ["CAP_KILL", "CAP_CHOWN", "CAP_SETUID", "CAP_SETGID"]
    sets = dict.fromkeys(("bounding", "effective", "permitted"), capabilities)
    user = {"uid": 0, "gid": 0}
    made = {"terminal": terminal, "user": user, "args": list(args), "env": list(_ENV), "cwd": "/", "capabilities": sets}
    return {**made, "consoleSize": {"height": 24, "width": 80}} if terminal else made


def oci_spec(
    root: str,
    args: Sequence[str],
    *,
    cgroup: str,
    terminal: bool = False,
    network: str = "",
    resources: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A small OCI runtime spec. `network` is the path of a network namespace to join; "" makes a new one."""
    namespaces = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]
    namespaces.append({"type": "network", "path": network} if network else {"type": "network"})
    return {
        "ociVersion": "1.0.2",
        "process": oci_process(args, terminal),
        "root": {"path": root, "readonly": False},
        "hostname": "suite",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
            },
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "rootfsPropagation": "rprivate",
            "namespaces": namespaces,
            "resources": dict(resources or {}),
        },
    }


class FakeRuntime:
    """A runtime driver that starts ordinary processes. Its state is in `context.root`, which must exist. A restored process
    starts from the beginning."""

    def __init__(self, context: RuntimeContext) -> None:
        self._context = context

    @property
    def capabilities(self) -> RuntimeCapabilities:
        return RuntimeCapabilities()

    def _command(self, *arguments: str, log: str = "", stdin: bytes = b"") -> Command:
        script = os.path.join(os.path.dirname(__file__), "_fake_runtime.py")
        argv = (sys.executable, "-I", "-S", script, "--root", self._context.root, "--log", log, *arguments)
        return Command(argv, env=(("PATH", os.defpath),), stdin=stdin, timeout=30)

    def version(self) -> Command:
        return Command((sys.executable, "-I", "-S", "-c", "print('fake runtime 1')"))

    def run(self, task: Task) -> Command:
        console = ("--console-socket", task.console_socket) if task.console_socket else ()
        paths = ("--bundle", task.bundle, "--pid-file", task.pid_file)
        return self._command("run", "--detach", *paths, *console, task.id, log=task.log)

    def exec(self, task: Task, execution: Execution) -> Command:
        console = ("--console-socket", execution.console_socket) if execution.console_socket else ()
        paths = ("--process", execution.process, "--pid-file", execution.pid_file)
        return self._command("exec", "--detach", *paths, *console, task.id, log=execution.log)

    def checkpoint(self, task: Task, image: str, work: str, *, leave_running: bool) -> Command:
        options = ("--image-path", image, "--work-path", work, *(("--leave-running",) if leave_running else ()))
        return self._command("checkpoint", *options, task.id)

    def restore(self, task: Task, image: str, work: str) -> Command:
        paths = ("--image-path", image, "--work-path", work, "--bundle", task.bundle, "--pid-file", task.pid_file)
        return self._command("restore", "--detach", *paths, task.id, log=task.log)

    def delete(self, task: Task) -> Command:
        return self._command("delete", "--force", task.id)

    def signal(self, task: Task, signum: int) -> Command:
        return self._command("kill", task.id, str(signum))

    def pause(self, task: Task) -> Command:
        return self._command("pause", task.id)

    def resume(self, task: Task) -> Command:
        return self._command("resume", task.id)

    def update(self, task: Task, resources: dict[str, Any]) -> Command:
        return self._command("update", "--resources", "-", task.id, stdin=json.dumps(resources).encode())

    def processes(self, task: Task) -> Command:
        return self._command("ps", "--format", "json", task.id)

    def explain(self, outcome: Outcome, log: bytes, verb: str = "create") -> str:
        messages = [json.loads(line)["msg"] for line in log.splitlines()]
        text = messages[-1] if messages else outcome.stderr.decode("utf-8", "replace").strip()
        if verb == "exec":
            return f"OCI runtime exec failed: exec failed: {text.removeprefix('exec failed: ')}"
        return "OCI runtime create failed: runc create failed: " + text.removeprefix("runc run failed: ")

    def monitor_mounts(self) -> Sequence[Mount]:
        return ()


def _detached(mounts: Sequence[str], argv: Sequence[str]) -> list[str]:
    """Return a command that runs `argv` as a monitor does: in a new mount namespace, after `mounts` were unmounted in it."""
    if not mounts:
        return list(argv)
    script = "".join(f"mount --make-private $(dirname {path}) && umount -l {path} && " for path in mounts)
    return ["unshare", "--mount", "--propagation", "unchanged", "sh", "-c", f'{script} exec "$@"', "sh", *argv]


class _Bundle:
    """One task of the suite. `finish` removes it."""

    def __init__(self, driver: Runtime, path: Path, args: Sequence[str], terminal: bool) -> None:
        self._driver = driver
        self._path = path
        self.console = path / "console"
        name = f"orlop-suite-{os.getpid()}-{time.monotonic_ns():x}"
        self.task = Task(name, str(path), str(path / "pid"), str(path / "log.json"), str(self.console) if terminal else "")
        spec = oci_spec(str(path.parent / "rootfs"), args, cgroup=f"/{name}", terminal=terminal)
        (path / "config.json").write_text(json.dumps(spec))
        self.output = path / "output"

    def call(self, command: Command, pipe: int | None = None) -> Outcome:
        """Run a command of the driver. The output of the command, and of the process that the command starts, goes to a file
        or to `pipe`."""
        argv = _detached(self._driver.capabilities.detach_mounts, command.argv)
        with self.output.open("ab") as out:
            done = subprocess.run(
                argv,
                env=dict(command.env) | {"PATH": os.environ["PATH"]},
                cwd=command.cwd,
                input=command.stdin,
                stdout=out if pipe is None else pipe,
                stderr=out if pipe is None else pipe,
                timeout=60,
                check=False,
            )
        return Outcome(done.returncode)

    def capture(self, command: Command) -> bytes:
        before = self.output.stat().st_size if self.output.exists() else 0
        assert self.call(command).status == 0
        return self.output.read_bytes()[before:]

    def run(self) -> int:
        """Run the task and return the pid of its init."""
        outcome = self.call(self._driver.run(self.task))
        assert outcome.status == 0, self.output.read_text()
        return int(Path(self.task.pid_file).read_text())

    def execution(self, args: Sequence[str]) -> Execution:
        process = self._path / "process.json"
        process.write_text(json.dumps(oci_process(args)))
        return Execution("e1", str(process), str(self._path / "exec.pid"), str(self._path / "exec.json"))

    def finish(self) -> None:
        assert self.call(self._driver.delete(self.task)).status == 0
        cgroups.remove(cgroups.named(f"/{self.task.id}"))  # with cgroup v1, CRIU leaves a cgroup below the task's cgroup


def _ended(pidfd: int, seconds: float = 10) -> bool:
    return bool(select.select([pidfd], [], [], seconds)[0])


def _can_checkpoint(driver: RuntimeCheckpoints) -> bool:
    """Whether the required programs are installed. For CRIU, `criu check` must also accept the kernel and the privileges."""
    programs = driver.capabilities.checkpoint_programs
    if any(shutil.which(program) is None for program in programs):
        return False
    return "criu" not in programs or subprocess.run(["criu", "check"], capture_output=True, check=False).returncode == 0


class RuntimeSuite:
    """Tests for every runtime driver. Override the fixture `driver`."""

    @pytest.fixture
    def driver(self, tmp_path: Path) -> Runtime:
        raise LookupError("a subclass of RuntimeSuite must override the fixture `driver`")

    @pytest.fixture
    def bundle(self, driver: Runtime, tmp_path: Path) -> Iterator[Callable[..., _Bundle]]:
        busybox_root(tmp_path / "rootfs")
        made: list[_Bundle] = []

        def make(*args: str, terminal: bool = False) -> _Bundle:
            path = tmp_path / f"b{len(made)}"
            path.mkdir()
            made.append(_Bundle(driver, path, args, terminal))
            return made[-1]

        yield make
        for item in made:
            item.finish()

    def test_is_a_runtime(self, driver: Runtime) -> None:
        assert isinstance(driver, Runtime)
        assert isinstance(driver.capabilities, RuntimeCapabilities)
        assert list(driver.monitor_mounts()) == []

    def test_version_command_prints_a_version(self, driver: Runtime, tmp_path: Path) -> None:
        command = driver.version()
        done = subprocess.run(command.argv, env=dict(command.env), capture_output=True, timeout=30, check=True)
        assert done.stdout.strip()

    def test_commands_are_pure(self, driver: Runtime, tmp_path: Path) -> None:
        task = Task("nothing", str(tmp_path / "no"), str(tmp_path / "pid"), str(tmp_path / "log"))
        before = sorted(tmp_path.rglob("*"))
        for command in (driver.run(task), driver.delete(task), driver.pause(task), driver.signal(task, 9)):
            assert command.argv
            assert 0 < command.timeout <= _LONGEST, f"{command.argv}: the daemon waits for the command"
            assert all(isinstance(word, str) for word in command.argv)
        assert sorted(tmp_path.rglob("*")) == before

    def test_task_inherits_standard_streams(self, bundle: Callable[..., _Bundle]) -> None:
        made = bundle("sh", "-c", "echo out; echo err >&2; exec sleep 60")
        pid = made.run()
        deadline = time.monotonic() + 10
        while made.output.read_bytes() != b"out\nerr\n" and time.monotonic() < deadline:
            select.select([], [], [], 0.01)
        assert made.output.read_bytes() == b"out\nerr\n"
        os.kill(pid, 0)

    def test_delete_kills_the_task(self, driver: Runtime, bundle: Callable[..., _Bundle]) -> None:
        made = bundle("sleep", "60")
        pidfd = os.pidfd_open(made.run())
        try:
            assert made.call(driver.delete(made.task)).status == 0
            assert _ended(pidfd)
        finally:
            os.close(pidfd)

    def test_delete_of_a_missing_task_is_silent(self, driver: Runtime, bundle: Callable[..., _Bundle]) -> None:
        made = bundle("true")
        assert made.capture(driver.delete(made.task)) == b""
        assert made.capture(driver.delete(made.task)) == b""

    def test_id_can_be_used_again(self, driver: Runtime, bundle: Callable[..., _Bundle]) -> None:
        made = bundle("sleep", "60")
        first = made.run()
        made.finish()
        assert made.run() != first

    def test_signal_reaches_the_task(self, driver: Runtime, bundle: Callable[..., _Bundle]) -> None:
        made = bundle("sleep", "60")
        pidfd = os.pidfd_open(made.run())
        try:
            assert made.call(driver.signal(made.task, signal.SIGKILL)).status == 0
            assert _ended(pidfd)
        finally:
            os.close(pidfd)

    def test_requested_signal_is_sent(self, driver: Runtime, bundle: Callable[..., _Bundle]) -> None:
        """SIGTERM must not kill a task that handles SIGTERM."""
        made = bundle("sh", "-c", "trap 'echo got it' TERM; echo ready; while true; do sleep 0.05; done")
        pid = made.run()

        def says(text: bytes) -> bool:
            deadline = time.monotonic() + _HEARD
            while text not in made.output.read_bytes() and time.monotonic() < deadline:
                select.select([], [], [], 0.01)
            return text in made.output.read_bytes()

        assert says(b"ready")
        assert made.call(driver.signal(made.task, signal.SIGTERM)).status == 0
        assert says(b"got it"), "signal(): the task did not get the signal"
        os.kill(pid, 0)

    def test_exec_runs_a_second_process(self, driver: Runtime, bundle: Callable[..., _Bundle]) -> None:
        made = bundle("sleep", "60")
        init = made.run()
        execution = made.execution(["sleep", "61"])
        assert made.call(driver.exec(made.task, execution)).status == 0
        pid = int(Path(execution.pid_file).read_text())
        assert pid != init
        assert sorted(json.loads(made.capture(driver.processes(made.task)))) == sorted([init, pid])

    def test_paused_task_resumes(self, driver: Runtime, bundle: Callable[..., _Bundle], tmp_path: Path) -> None:
        made = bundle("sh", "-c", "while true; do echo x; sleep 0.01; done")
        made.run()
        assert made.call(driver.pause(made.task)).status == 0
        size = made.output.stat().st_size
        select.select([], [], [], 0.1)
        assert made.output.stat().st_size == size
        assert made.call(driver.resume(made.task)).status == 0
        deadline = time.monotonic() + 10
        while made.output.stat().st_size == size and time.monotonic() < deadline:
            select.select([], [], [], 0.01)
        assert made.output.stat().st_size > size

    def test_checkpointed_task_is_restored(self, driver: Runtime, bundle: Callable[..., _Bundle], tmp_path: Path) -> None:
        if not isinstance(driver, RuntimeCheckpoints) or not _can_checkpoint(driver):
            pytest.skip("it has no checkpoints, or not on this host")
        made = bundle("sh", "-c", "while true; do echo x; sleep 0.01; done")
        reading, writing = os.pipe()  # CRIU cannot restore an open file that is outside the container's mounts
        try:
            assert made.call(driver.run(made.task), writing).status == 0
            pid = int(Path(made.task.pid_file).read_text())
            for name in ("living", "last", "work"):
                (tmp_path / name).mkdir()
            work = str(tmp_path / "work")
            living, last = str(tmp_path / "living"), str(tmp_path / "last")
            assert made.call(driver.checkpoint(made.task, living, work, leave_running=True)).status == 0, (
                made.output.read_text()
            )
            assert os.listdir(living)
            pidfd = os.pidfd_open(pid)
            assert not _ended(pidfd, 0.05)
            assert made.call(driver.checkpoint(made.task, last, work, leave_running=False)).status == 0
            assert _ended(pidfd)
            os.close(pidfd)
            made.finish()
            while select.select([reading], [], [], 0)[0]:
                os.read(reading, 65536)
            assert made.call(driver.restore(made.task, last, work), writing).status == 0
            os.kill(int(Path(made.task.pid_file).read_text()), 0)
            assert _ended(reading)  # the restored process writes output
            made.finish()
            assert made.call(driver.restore(made.task, work, work), writing).status != 0  # `work` holds no checkpoint
        finally:
            os.close(reading)
            os.close(writing)

    def test_update_changes_limits(self, driver: Runtime, bundle: Callable[..., _Bundle]) -> None:
        made = bundle("sleep", "60")
        made.run()
        assert made.call(driver.update(made.task, {"pids": {"limit": 64}})).status == 0

    def test_console_is_sent_over_the_socket(self, driver: Runtime, bundle: Callable[..., _Bundle]) -> None:
        made = bundle("sh", "-c", "stty size; sleep 60", terminal=True)
        with closing(socket.socket(socket.AF_UNIX)) as listener:
            listener.bind(made.task.console_socket)
            listener.listen(1)
            made.run()
            listener.settimeout(10)
            peer, _ = listener.accept()
            with closing(peer):
                _, fds, _, _ = socket.recv_fds(peer, 4096, 1)
        try:
            assert os.isatty(fds[0])
            assert _ended(fds[0])  # the container has written to the terminal and ended
            assert os.read(fds[0], 100)
        finally:
            os.close(fds[0])

    def test_missing_program_is_explained(self, driver: Runtime, bundle: Callable[..., _Bundle]) -> None:
        made = bundle("nosuch")
        outcome = made.call(driver.run(made.task))
        assert outcome.status != 0
        text = driver.explain(outcome, Path(made.task.log).read_bytes())
        assert text.startswith("OCI runtime create failed: ")
        assert text.endswith('exec: "nosuch": executable file not found in $PATH')

    def test_missing_program_of_an_exec_is_explained(self, driver: Runtime, bundle: Callable[..., _Bundle]) -> None:
        made = bundle("sleep", "60")
        made.run()
        execution = made.execution(["nosuch"])
        outcome = made.call(driver.exec(made.task, execution))
        assert outcome.status != 0
        text = driver.explain(outcome, Path(execution.log).read_bytes(), "exec")
        assert text.startswith("OCI runtime exec failed: exec failed: ")
        assert 'exec: "nosuch": executable file not found in $PATH' in text
