"""The contract of a runtime driver: how to do things to an OCI bundle, as commands. The kernel runs them.

`run`, `exec` and `delete` are run by the container's monitor (their process must outlive the daemon); the rest by the
daemon, from the host's mount namespace.
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
    """`direct_signals`: the container's init is a process of this host, and a signal to its pid is a signal to it.
    `detach_mounts`: mount points that the monitor must detach from its own namespace first (crun on hybrid hosts).
    `checkpoint_programs`: what must be installed on the host for `RuntimeCheckpoints`."""

    direct_signals: bool = True
    detach_mounts: tuple[str, ...] = ()
    checkpoint_programs: tuple[str, ...] = ()


class RuntimeContext(msgspec.Struct, frozen=True):
    """What the kernel gives a runtime factory: the `runtimes` entry of daemon.json, resolved. `path` is "" when the entry
    names a driver by `runtimeType` and no program. `root` is a directory under exec-root for the runtime's own state."""

    name: str
    path: str
    root: str
    arguments: tuple[str, ...] = ()
    systemd_cgroup: bool = False


class Task(msgspec.Struct, frozen=True):
    """One run of a container. `log` is a file for the runtime's own errors."""

    id: str
    bundle: str
    pid_file: str
    log: str
    console_socket: str = ""


class Execution(msgspec.Struct, frozen=True):
    """One further process in a running task. `process` is the path of an OCI process JSON."""

    id: str
    process: str
    pid_file: str
    log: str
    console_socket: str = ""


@runtime_checkable
class RuntimeFeatures(Protocol):
    """What a runtime may offer besides: telling what it can do."""

    def features(self) -> Command:
        """Prints the runtime's features as JSON (OCI runtime-spec, features.md). `info` shows them, and read-only
        mounts are so all the way down when `rro` is among its `mountOptions`."""
        ...


@runtime_checkable
class RuntimeCheckpoints(Protocol):
    """What a runtime may offer besides: writing the processes of a task to disk, and starting it from there."""

    @property
    def capabilities(self) -> RuntimeCapabilities: ...

    def checkpoint(self, task: Task, image: str, work: str, *, leave_running: bool) -> Command:
        """Write what the task's processes are to directory `image`, which is there and empty, and end them unless
        `leave_running`. `work` is a directory for logs. When it fails the task goes on."""
        ...

    def restore(self, task: Task, image: str, work: str) -> Command:
        """In place of `run`, with the same promises: start the task from what `checkpoint` wrote, in the bundle as it is
        now. Run by the monitor."""
        ...


@runtime_checkable
class Runtime(Protocol):
    """All methods are pure: they touch nothing and return what to run."""

    @property
    def capabilities(self) -> RuntimeCapabilities: ...

    def version(self) -> Command:
        """Prints the runtime's version."""
        ...

    def run(self, task: Task) -> Command:
        """Create and start, detached: on success the init's pid is in `task.pid_file`, and its parent is the nearest
        subreaper, the monitor. The process inherits the command's stdio, or the console went to `console_socket`."""
        ...

    def exec(self, task: Task, execution: Execution) -> Command:
        """The same for a further process."""
        ...

    def delete(self, task: Task) -> Command:
        """Remove what the runtime keeps of an ended task: its state and its cgroups. Forces, and of a task it does not
        know says nothing."""
        ...

    def signal(self, task: Task, signum: int) -> Command: ...
    def pause(self, task: Task) -> Command: ...
    def resume(self, task: Task) -> Command: ...

    def update(self, task: Task, resources: dict[str, Any]) -> Command:
        """Apply OCI `linux.resources` (JSON on standard input)."""
        ...

    def processes(self, task: Task) -> Command:
        """Prints a JSON list of the pids in the task."""
        ...

    def explain(self, outcome: Outcome, log: bytes, verb: str = "create") -> str:
        """The reason why `run` (`verb` is "create") or `exec` ("exec") failed, in the words Docker's clients match on:
        `OCI runtime create failed: runc create failed: unable to start container process: exec: "x": executable file not
        found in $PATH`."""
        ...

    def monitor_mounts(self) -> Sequence[Mount]:
        """Mounts the monitor must make for the runtime in its own namespace; usually none."""
        ...
