"""The command line of runc (runc(8)) and crun (crun(1)), as data."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import msgspec

from orlop_sdk import Command, Execution, Mount, Outcome, RuntimeCapabilities, RuntimeContext, Task

from .messages import explain

__all__ = ["Runc"]

# Runtimes need PATH only for hooks and systemd. The daemon's environment is not passed to them.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_START_TIMEOUT = 120.0
_TIMEOUT = 30.0
_CHECKPOINT_TIMEOUT = 600.0  # seconds; a checkpoint writes all memory of a container to disk
# Environment variable with an upper limit of all timeouts in seconds, for tests of runtimes that hang
_SHORTER = "ORLOP_RUNTIME_TIMEOUT"
_UNIFIED = "/sys/fs/cgroup/unified"


def hybrid_mounts(mountinfo: str) -> tuple[str, ...]:
    """The cgroup v2 mount point of a hybrid host (v1 and v2), which crun does not support; empty on other hosts."""
    types = {}
    for line in mountinfo.splitlines():
        head, _, tail = line.partition(" - ")
        types[head.split()[4]] = tail.split()[0]
    v1 = any(kind == "cgroup" for kind in types.values())
    return (_UNIFIED,) if v1 and types.get(_UNIFIED) == "cgroup2" else ()


def _host_mounts() -> str:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


class Runc:
    """Implements `Runtime`, `RuntimeFeatures` and `RuntimeCheckpoints`."""

    def __init__(self, context: RuntimeContext) -> None:
        self._context = context
        self._is_crun = os.path.basename(context.path).endswith("crun")
        detach = hybrid_mounts(_host_mounts()) if self._is_crun else ()
        self._capabilities = RuntimeCapabilities(detach_mounts=detach, checkpoint_programs=("criu",))
        self._longest = float(os.environ.get(_SHORTER, "inf"))

    @property
    def capabilities(self) -> RuntimeCapabilities:
        return self._capabilities

    def _command(self, *arguments: str, log: str = "", stdin: bytes = b"", timeout: float = _TIMEOUT) -> Command:
        context = self._context
        options = ["--root", context.root]
        if log:
            options += ["--log", log, "--log-format", "json"]
        if context.systemd_cgroup:
            options.append("--systemd-cgroup")
        argv = (context.path, *context.arguments, *options, *arguments)
        return Command(argv, env=(("PATH", _PATH),), stdin=stdin, timeout=min(timeout, self._longest))

    def version(self) -> Command:
        return Command((self._context.path, "--version"), env=(("PATH", _PATH),), timeout=_TIMEOUT)

    def features(self) -> Command:
        """See `orlop_sdk.RuntimeFeatures`."""
        return Command((self._context.path, "features"), env=(("PATH", _PATH),), timeout=_TIMEOUT)

    def run(self, task: Task) -> Command:
        console = ("--console-socket", task.console_socket) if task.console_socket else ()
        options = ("--detach", "--bundle", task.bundle, "--pid-file", task.pid_file, *console)
        return self._command("run", *options, task.id, log=task.log, timeout=_START_TIMEOUT)

    def exec(self, task: Task, execution: Execution) -> Command:
        console = ("--console-socket", execution.console_socket) if execution.console_socket else ()
        options = ("--detach", "--process", execution.process, "--pid-file", execution.pid_file, *console)
        return self._command("exec", *options, task.id, log=execution.log, timeout=_START_TIMEOUT)

    def checkpoint(self, task: Task, image: str, work: str, *, leave_running: bool) -> Command:
        """See `orlop_sdk.RuntimeCheckpoints`."""
        options = ("--image-path", image, "--work-path", work, *(("--leave-running",) if leave_running else ()))
        return self._command("checkpoint", *options, task.id, timeout=_CHECKPOINT_TIMEOUT)

    def restore(self, task: Task, image: str, work: str) -> Command:
        """See `orlop_sdk.RuntimeCheckpoints`."""
        paths = ("--image-path", image, "--work-path", work, "--bundle", task.bundle, "--pid-file", task.pid_file)
        return self._command("restore", "--detach", *paths, task.id, log=task.log, timeout=_CHECKPOINT_TIMEOUT)

    def delete(self, task: Task) -> Command:
        return self._command("delete", "--force", task.id)

    def signal(self, task: Task, signum: int) -> Command:
        return self._command("kill", task.id, str(signum))

    def pause(self, task: Task) -> Command:
        return self._command("pause", task.id)

    def resume(self, task: Task) -> Command:
        return self._command("resume", task.id)

    def update(self, task: Task, resources: dict[str, Any]) -> Command:
        return self._command("update", "--resources", "-", task.id, stdin=msgspec.json.encode(resources))

    def processes(self, task: Task) -> Command:
        return self._command("ps", "--format", "json", task.id)

    def explain(self, outcome: Outcome, log: bytes, verb: str = "create") -> str:
        return explain(os.path.basename(self._context.path), outcome, log, verb)

    def monitor_mounts(self) -> Sequence[Mount]:
        return ()
