"""Checkpoints: the runtime writes the processes of a running container to disk (with CRIU), and a start restores them.

Files: `checkpoints/NAME` in the container's directory, or NAME in a directory that the client chose. The directory `criu`
contains the runtime's logs of the last checkpoint or restore, even if it failed. A checkpoint is written under a temporary
name and renamed when it is complete, so a crash leaves no partial checkpoint. The temporary directory is removed when the
name is used again, or together with the container. A checkpoint does not contain the container's root file system. A restore
uses the current files of the root.
"""

from __future__ import annotations

import os
import re
import shutil

import trio

from orlop_engine import commands
from orlop_engine.calls import asked
from orlop_sdk import (
    Conflict,
    DeadlineExceeded,
    DriverError,
    InvalidParameter,
    NotFound,
    NotImplementedHere,
    OrlopError,
    RuntimeCheckpoints,
)

from .container import Container
from .paths import ContainerPaths
from .ports import Ports
from .runtime import task
from .services import Drivers

__all__ = ["complaint", "create", "find", "names", "remove", "runtime_of", "work_directory"]

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_ENDING = 10.0  # seconds to wait until the exit is recorded, if the checkpoint has stopped the container


async def runtime_of(drivers: Drivers, container: Container) -> RuntimeCheckpoints:
    """The driver of the container's runtime. Raises `NotImplementedHere` if checkpoints of this container are not possible
    on this host."""
    name = container.record.host_config.runtime
    if container.run is not None and container.run.monitor is not None and container.run.monitor.userns_path:
        raise NotImplementedHere(f"cannot checkpoint container {container.name}: it has a user namespace")
    runtime = await drivers.runtime(*container.record.runtime)
    if not isinstance(runtime, RuntimeCheckpoints):
        raise NotImplementedHere(
            f'cannot checkpoint container {container.name}: runtime "{name}" does not support checkpoints'
        )
    for program in runtime.capabilities.checkpoint_programs:
        if shutil.which(program) is None:
            raise NotImplementedHere(f"cannot checkpoint container {container.name}: {program} is not installed on the host")
    return runtime


def _base(paths: ContainerPaths, container: Container, directory: str) -> str:
    if directory and not directory.startswith("/"):
        raise InvalidParameter(f"invalid checkpoint directory {directory}: it must be an absolute path")
    return directory or os.path.join(paths.directory(container.id), "checkpoints")


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidParameter(f"Invalid checkpoint ID ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")


def work_directory(paths: ContainerPaths, container: Container) -> str:
    """Create an empty directory for the logs of the runtime and CRIU."""
    path = os.path.join(paths.directory(container.id), "criu")
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path, mode=0o700)
    return path


def complaint(work: str) -> str:
    """The last error in CRIU's logs. This error is appended to the runtime's message, because the runtime's message only
    contains the name of the log file."""
    found = ""
    for name in ("dump.log", "restore.log"):
        try:
            with open(os.path.join(work, name), errors="replace") as file:
                errors = [line.partition(") ")[2].strip() for line in file if ") Error (" in line]
        except OSError:
            continue
        found = errors[-1] if errors else found
    return f": {found}" if found else ""


async def create(ports: Ports, container: Container, name: str, directory: str, *, end: bool) -> None:
    """Write a checkpoint. If `end` is true, also stop the container. The checkpoint is complete when this function
    returns."""
    _check_name(name)
    base = _base(ports.paths, container, directory)
    final, partial = os.path.join(base, name), os.path.join(base, f".{name}.partial")
    await container.boot_start_tried()
    async with container.lock:
        state = container.record.state
        if not state.running or state.restarting or container.run is None:
            raise Conflict(f"container {container.id} is not running")
        if state.paused:
            raise Conflict(f"container {container.id} is paused, unpause the container before checkpoint")
        if container.record.config.tty:
            raise InvalidParameter("checkpoint not support on containers with tty")
        runtime = await runtime_of(ports.drivers, container)
        if os.path.lexists(final):
            raise Conflict(f"checkpoint with name {name} already exists for container {container.name}")
        run = container.run
        requested, container.stop_requested = container.stop_requested, container.stop_requested or end
        try:
            await trio.to_thread.run_sync(_clear, partial)
            os.makedirs(partial, mode=0o700)
            work = work_directory(ports.paths, container)
            this = task(ports.paths, container)
            command = await asked(runtime.checkpoint, this, partial, work, leave_running=not end)
            await commands.check(command, f"checkpoint container {container.name}")
            os.rename(partial, final)
        except (OrlopError, OSError) as error:
            container.stop_requested = requested
            await trio.to_thread.run_sync(_clear, partial)
            if isinstance(error, DeadlineExceeded):
                raise
            if isinstance(error, OSError):
                raise DriverError(f"Cannot checkpoint container {container.name}: {error}") from error
            raise DriverError(f"{error}{complaint(work)}") from error
        if end:
            with container.publish() as draft:  # the commit of the exit also saves this change
                draft.manually_stopped = True
            with trio.move_on_after(_ENDING):
                await run.finished.wait()
    ports.events.publish(container, "checkpoint")


def _clear(path: str) -> None:
    shutil.rmtree(path, ignore_errors=True)


def names(paths: ContainerPaths, container: Container, directory: str) -> list[str]:
    try:
        with os.scandir(_base(paths, container, directory)) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and _NAME.fullmatch(entry.name))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DriverError(f"cannot list the checkpoints of container {container.name}: {error}") from error


def find(paths: ContainerPaths, container: Container, name: str, directory: str) -> str:
    """The path of a checkpoint."""
    _check_name(name)
    path = os.path.join(_base(paths, container, directory), name)
    if not os.path.lexists(path):
        raise NotFound(f"checkpoint {name} does not exist for container {container.name}")
    if not os.path.isdir(path) or os.path.islink(path):
        raise Conflict(f"{path} exists and is not a directory")
    return path


async def remove(paths: ContainerPaths, container: Container, name: str, directory: str) -> None:
    """Rename the checkpoint and then delete it, so that an interrupted removal leaves no partial checkpoint under this
    name."""
    path = find(paths, container, name, directory)
    partial = os.path.join(os.path.dirname(path), f".{name}.partial")
    await trio.to_thread.run_sync(_clear, partial)
    try:
        os.rename(path, partial)
    except OSError as error:
        raise DriverError(f"cannot remove checkpoint {name} of container {container.name}: {error}") from error
    await trio.to_thread.run_sync(_clear, partial)
