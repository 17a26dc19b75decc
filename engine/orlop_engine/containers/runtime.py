"""The description of a container for its OCI runtime (`Task`), and the removal of the runtime's state."""

from __future__ import annotations

import logging
import os
import posixpath
import shutil

import trio

from orlop_engine import commands
from orlop_engine.calls import asked
from orlop_engine.config import Config
from orlop_engine.processes import runs
from orlop_engine.types.containers import HostConfig
from orlop_sdk import InvalidParameter, OrlopError, Task, cgroups

from .container import Container, Run
from .paths import ContainerPaths
from .ports import Ports

__all__ = ["cgroup_path", "clean", "has_state", "is_left", "task"]

log = logging.getLogger("orlop.containers")

_EMPTYING = 2.0  # seconds within which the processes in killed cgroups must end


def cgroup_path(config: Config, container_id: str, host: HostConfig) -> str:
    parent = host.cgroup_parent or config.effective_cgroup_parent
    if config.cgroup_driver == "systemd":
        if not parent.endswith(".slice"):
            raise InvalidParameter(
                f'cgroup-parent for systemd cgroup should be a valid slice named as "xxx.slice", not "{parent}"'
            )
        return f"{parent}:orlop:{container_id}"
    if ":" in parent:
        raise InvalidParameter(f'invalid cgroup parent "{parent}": only names of systemd slices may contain ":"')
    return posixpath.normpath(f"/{parent.strip('/')}/{container_id}")


def task(paths: ContainerPaths, container: Container) -> Task:
    run_dir = paths.run_dir(container.id)
    console = f"{run_dir}/console" if container.record.config.tty else ""
    return Task(container.id, run_dir, f"{run_dir}/init.pid", f"{run_dir}/runtime.log", console)


def _state(paths: ContainerPaths, container: Container) -> str:
    """The directory in which a runtime with runc's command line keeps the container's state: a few files on a tmpfs."""
    return os.path.join(paths.exec_root, f"runtime-{container.record.host_config.runtime}", container.id)


def has_state(paths: ContainerPaths, container: Container) -> bool:
    """Whether the runtime still has state of the container. If so, the runtime refuses to start a container with this id."""
    return os.path.isdir(_state(paths, container))


def is_left(paths: ContainerPaths, container: Container, run: Run) -> bool:
    """Whether the runtime's command `delete` still has to run. This command removes the runtime's state and the cgroups.
    With the cgroup driver systemd, systemd removes the cgroups instead."""
    init = runs.init_record(run.run_dir)
    made = init.cgroups if init is not None else ()
    return has_state(paths, container) or any(map(os.path.isdir, made))


async def clean(ports: Ports, container: Container) -> None:
    """Run the runtime's command `delete`, if the monitor has not run it. Without this command the container cannot start
    again. Never raises an error, because an exit must be processed even when the runtime hangs or is no longer installed."""
    record = container.record
    try:
        runtime = await ports.drivers.runtime(*record.runtime)
        delete = await asked(runtime.delete, task(ports.paths, container))
        await commands.check(delete, f"delete the runtime's state of container {container.name}")
    except OrlopError as error:
        log.warning("%s", error)
    except Exception:
        log.exception("cannot remove the runtime's state of container %s", container.name)
    try:
        await _remove_cgroups(cgroup_path(ports.config, container.id, record.host_config))
        shutil.rmtree(_state(ports.paths, container), ignore_errors=True)  # the runtime usually has removed this directory
    except Exception:
        log.exception("cannot remove the runtime's state and cgroups of container %s", container.name)


async def _remove_cgroups(path: str) -> None:
    """Remove the container's cgroups. A runtime that was killed during a start may have created the cgroups, but not the
    state that its command `delete` reads to find them."""
    found = cgroups.named(path)
    with trio.move_on_after(_EMPTYING):
        while not (cgroups.kill(found) and cgroups.remove(found)):  # noqa: ASYNC110 - the kernel sends no notification
            await trio.sleep(0.01)
