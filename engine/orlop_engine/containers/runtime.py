"""A container as its runtime knows it, and having the runtime forget it."""

from __future__ import annotations

import logging
import os
import shutil
from typing import TYPE_CHECKING

import trio

from orlop_engine.processes import runs
from orlop_kernel import process
from orlop_sdk import OrlopError, Task, cgroups

from . import bundle
from .container import Container, Run

if TYPE_CHECKING:
    from .service import Containers

__all__ = ["clean", "has_state", "is_left", "task"]

log = logging.getLogger(__name__)

_EMPTYING = 2.0  # seconds


def task(containers: Containers, container: Container) -> Task:
    run_dir = containers.run_dir(container.id)
    console = f"{run_dir}/console" if container.record.config.tty else ""
    return Task(container.id, run_dir, f"{run_dir}/init.pid", f"{run_dir}/runtime.log", console)


def _state(containers: Containers, container: Container) -> str:
    """What a runtime with runc's command line keeps of the container: a few files in memory."""
    return os.path.join(containers.engine.config.exec_root, f"runtime-{container.record.host_config.runtime}", container.id)


def has_state(containers: Containers, container: Container) -> bool:
    """Whether the runtime still keeps something of the container: another start with its id would be refused."""
    return os.path.isdir(_state(containers, container))


def is_left(containers: Containers, container: Container, run: Run) -> bool:
    """Whether the runtime was not had forget the container: that takes its cgroups away (systemd does so by itself), and
    what the runtime keeps."""
    init = runs.init_record(run.run_dir)
    made = init.cgroups if init is not None else ()
    return has_state(containers, container) or any(map(os.path.isdir, made))


async def clean(containers: Containers, container: Container) -> None:
    """What the monitor would have done last: have the runtime forget the container, or it could not start again. Never
    raises: an exit must be accounted for even when its runtime is no longer installed, or hangs."""
    record = container.record
    try:
        runtime = containers.engine.drivers.runtime(record.host_config.runtime)
        await process.check(
            runtime.delete(task(containers, container)), f"have the runtime forget container {container.name}"
        )
    except OrlopError as error:
        log.warning("%s", error)
    except Exception:
        log.exception("cannot have the runtime forget container %s", container.name)
    try:
        await _remove_cgroups(bundle.cgroup_path(containers, container.id, record.host_config))
        shutil.rmtree(_state(containers, container), ignore_errors=True)  # most often gone by now
    except Exception:
        log.exception("cannot remove what runtime and kernel keep of container %s", container.name)


async def _remove_cgroups(path: str) -> None:
    """A runtime that was cut off in the middle of a start knows nothing of the container yet, and has made its cgroups."""
    found = cgroups.named(path)
    with trio.move_on_after(_EMPTYING):
        while not (cgroups.kill(found) and cgroups.remove(found)):  # noqa: ASYNC110 - the kernel tells nobody
            await trio.sleep(0.01)
