"""The contract of a runtime driver. The driver only returns the command lines of an OCI runtime.

The container's monitor runs `run`, `restore`, `exec` and `delete`, because the container must outlive the daemon. The daemon
runs the other commands, in the host's mount namespace.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import msgspec

from .common import Command, Mount, Outcome

__all__ = [
    "Execution",
    "Runtime",
    "RuntimeCapabilities",
    "RuntimeCheckpoints",
    "RuntimeContext",
    "RuntimeFeatures",
    "Task",
]


class RuntimeCapabilities(msgspec.Struct, frozen=True):
    """`direct_signals`: the container's init is a process of this host, so the daemon may send a signal to its pid instead
    of running the command of `Runtime.signal`. `detach_mounts`: mount points that the monitor unmounts in its own mount
    namespace (MNT_DETACH) before it runs a command. (crun needs this on hosts with hybrid cgroups.) `checkpoint_programs`:
    programs that `RuntimeCheckpoints` needs."""

    direct_signals: bool = True
    detach_mounts: tuple[str, ...] = ()
    checkpoint_programs: tuple[str, ...] = ()


class RuntimeContext(msgspec.Struct, frozen=True):
    """Argument of a runtime factory: an entry of `runtimes` in daemon.json. `name` is the entry's key. `path` is the
    runtime's program; "" if the entry has a `runtimeType` instead of a path. `root` is a directory below exec-root for the
    runtime's own state. `arguments` are the entry's `runtimeArgs`."""

    name: str
    path: str
    root: str
    arguments: tuple[str, ...] = ()
    systemd_cgroup: bool = False


class Task(msgspec.Struct, frozen=True):
    """One run of a container. `bundle` is the OCI bundle directory. The runtime writes the pid of the container's init to
    `pid_file`, and its own errors to `log`. `console_socket` is the unix socket to which the runtime sends the terminal's
    descriptor; "" without a terminal."""

    id: str
    bundle: str
    pid_file: str
    log: str
    console_socket: str = ""


class Execution(msgspec.Struct, frozen=True):
    """One additional process (`docker exec`) in a running task. `process` is the path of a file with an OCI process as JSON.
    The other fields have the same meaning as in `Task`."""

    id: str
    process: str
    pid_file: str
    log: str
    console_socket: str = ""


@runtime_checkable
class RuntimeFeatures(Protocol):
    """Optional method of a runtime driver: report the runtime's features."""

    def features(self) -> Command:
        """A command that prints the runtime's features as JSON (OCI runtime-spec, features.md). `docker info` shows the
        features. When `mountOptions` contains `rro`, read-only binds are made recursively read-only."""
        ...


@runtime_checkable
class RuntimeCheckpoints(Protocol):
    """Optional methods of a runtime driver: write the processes of a task to disk, and restore a task from there."""

    @property
    def capabilities(self) -> RuntimeCapabilities: ...

    def checkpoint(self, task: Task, image: str, work: str, *, leave_running: bool) -> Command:
        """Write the state of the task's processes to the directory `image`, which exists and is empty. Then end the
        processes, unless `leave_running` is true. `work` is a directory for logs. If the command fails, the task continues
        to run."""
        ...

    def restore(self, task: Task, image: str, work: str) -> Command:
        """Start the task from the files that `checkpoint` wrote. The bundle may have changed since then. The monitor runs
        this command instead of `run`, and the guarantees of `run` apply to it."""
        ...


@runtime_checkable
class Runtime(Protocol):
    """All methods are pure: they only build the command to run, and may be called at any time, in any order. A command that
    fails exits with a status other than 0. The daemon calls methods on threads, several at the same time, and abandons a
    call after 5 seconds. `capabilities` is read once."""

    @property
    def capabilities(self) -> RuntimeCapabilities: ...

    def version(self) -> Command:
        """A command that prints the runtime's version."""
        ...

    def run(self, task: Task) -> Command:
        """Create and start the task, detached. When the command has succeeded, `task.pid_file` contains the pid of the
        container's init, and the parent of init is the nearest subreaper, which is the monitor. Init inherits the command's
        stdio. If `task.console_socket` is set, init has a terminal instead, and the runtime has sent the terminal's
        descriptor to this socket."""
        ...

    def exec(self, task: Task, execution: Execution) -> Command:
        """Start an additional process in the running task. The guarantees of `run` apply."""
        ...

    def delete(self, task: Task) -> Command:
        """Remove the runtime's state and the cgroups of a task, and kill its remaining processes. The command may be run
        twice. For an unknown task, the command succeeds and prints nothing."""
        ...

    def signal(self, task: Task, signum: int) -> Command:
        """Send a signal to the container's init."""
        ...

    def pause(self, task: Task) -> Command:
        """Freeze all processes of the task."""
        ...

    def resume(self, task: Task) -> Command:
        """Thaw all processes of a paused task."""
        ...

    def update(self, task: Task, resources: dict[str, Any]) -> Command:
        """Apply `resources`, the OCI `linux.resources`, to the running task. The driver passes them on, usually as JSON in
        `Command.stdin`."""
        ...

    def processes(self, task: Task) -> Command:
        """A command that prints a JSON list of the pids in the task, as the host sees them."""
        ...

    def explain(self, outcome: Outcome, log: bytes, verb: str = "create") -> str:
        """The error message for a failed `run` (`verb` is "create") or `exec` ("exec"). `log` is the content of `Task.log`
        or `Execution.log`. Docker's clients match on this text: `OCI runtime create failed: runc create failed: unable to
        start container process: exec: "x": executable file not found in $PATH`."""
        ...

    def monitor_mounts(self) -> Sequence[Mount]:
        """Mounts that the runtime needs in the monitor's mount namespace. Most runtimes need none."""
        ...
