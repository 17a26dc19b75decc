"""A container as its runtime knows it, and having the runtime forget it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from orlop_kernel import process
from orlop_kernel.spi import OrlopError, Task

from .container import Container

if TYPE_CHECKING:
    from .service import Containers

__all__ = ["clean", "task"]

log = logging.getLogger(__name__)


def task(room: Containers, container: Container) -> Task:
    run_dir = room.run_dir(container.id)
    console = f"{run_dir}/console" if container.record.config.tty else ""
    return Task(container.id, run_dir, f"{run_dir}/init.pid", f"{run_dir}/runtime.log", console)


async def clean(room: Containers, container: Container) -> None:
    """What the monitor would have done last: have the runtime forget the container, or it could not start again. Never
    raises: an exit must be accounted for even when its runtime is no longer installed."""
    try:
        runtime = room.engine.drivers.runtime(container.record.host_config.runtime)
        await process.check(runtime.delete(task(room, container)), f"have the runtime forget container {container.name}")
    except OrlopError as error:
        log.warning("%s", error)
    except Exception:
        log.exception("cannot have the runtime forget container %s", container.name)
