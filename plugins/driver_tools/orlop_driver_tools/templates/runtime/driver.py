"""The runtime driver `mydriver`, for a program with the command line of runc(8).

An entry of `runtimes` in daemon.json selects the driver and the program:

    {"runtimes": {"mydriver": {"runtimeType": "mydriver", "path": "/usr/bin/mydriver"}}}
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from orlop_sdk import (
    Command,
    Execution,
    Mount,
    Outcome,
    Register,
    RuntimeCapabilities,
    RuntimeContext,
    Task,
    hookimpl,
)

__all__ = ["MyDriver", "orlop_runtime"]

_ENV = (("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),)  # the daemon's environment is not passed
_START_TIMEOUT = 50.0
_TIMEOUT = 30.0
_PREFIX = re.compile(r"^(?:\S+ (?:run|exec|create) failed|exec failed): ")


class MyDriver:
    """Implements `Runtime`. Methods do no I/O: they return commands, which the daemon or the container's monitor runs."""

    def __init__(self, context: RuntimeContext) -> None:
        self._context = context
        self._program = context.path or "mydriver"

    @property
    def capabilities(self) -> RuntimeCapabilities:
        return RuntimeCapabilities()

    def _command(self, *arguments: str, log: str = "", stdin: bytes = b"", timeout: float = _TIMEOUT) -> Command:
        options = ["--root", self._context.root]
        if log:
            options += ["--log", log, "--log-format", "json"]
        if self._context.systemd_cgroup:
            options.append("--systemd-cgroup")
        argv = (self._program, *self._context.arguments, *options, *arguments)
        return Command(argv, env=_ENV, stdin=stdin, timeout=timeout)

    def version(self) -> Command:
        return Command((self._program, "--version"), env=_ENV, timeout=_TIMEOUT)

    def run(self, task: Task) -> Command:
        console = ("--console-socket", task.console_socket) if task.console_socket else ()
        options = ("--detach", "--bundle", task.bundle, "--pid-file", task.pid_file, *console)
        return self._command("run", *options, task.id, log=task.log, timeout=_START_TIMEOUT)

    def exec(self, task: Task, execution: Execution) -> Command:
        console = ("--console-socket", execution.console_socket) if execution.console_socket else ()
        options = ("--detach", "--process", execution.process, "--pid-file", execution.pid_file, *console)
        return self._command("exec", *options, task.id, log=execution.log, timeout=_START_TIMEOUT)

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
        """`docker run` derives its exit code from this text: 127 for "executable file not found", 126 for "permission
        denied". A program with other messages than runc's must convert them here."""
        cause = _PREFIX.sub("", _last_error(log) or outcome.stderr.decode("utf-8", "replace").strip())
        if outcome.timed_out:
            cause = "the runtime did not answer in time and was killed"
        cause = cause or f"the runtime ended with status {outcome.status} and gave no reason"
        if verb == "exec":
            return f"OCI runtime exec failed: exec failed: {_PREFIX.sub('', cause)}"
        return f"OCI runtime create failed: mydriver create failed: {cause}"

    def monitor_mounts(self) -> Sequence[Mount]:
        return ()


def _last_error(log: bytes) -> str:
    """The last error in the program's JSON log."""
    for line in reversed(log.splitlines()):
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # the program was killed while it wrote the line
        if isinstance(entry, dict) and entry.get("level") in ("error", "fatal"):
            return str(entry.get("msg", "")).strip()
    return ""


@hookimpl
def orlop_runtime(register: Register) -> None:
    register("mydriver", MyDriver, spi_version=1)
