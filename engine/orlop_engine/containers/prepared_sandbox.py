"""Sandboxes made ahead: between its create and its start, a client such as `docker run` prepares for some milliseconds, in
which the monitor and what it builds can come to be. A start takes what was made, when it is still what it wants.

Owns monitors that have started nothing: one ends with this daemon, with its container, or when no start comes for a moment.
All but `begin` is done under the container's lock.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import trio
from msgspec.structs import replace

from orlop_engine.futures import Future
from orlop_engine.processes.monitor_client import Monitor
from orlop_monitor.protocol import Launch
from orlop_sdk import OrlopError, Runtime

from .container import Container

if TYPE_CHECKING:
    from .service import Containers

__all__ = ["PreparedSandbox", "begin", "drop", "fork", "take"]

_SECONDS = 1.0
_PATIENCE = 5.0  # with one that does not die
_MOST = 8  # of clients that only create


class PreparedSandbox:
    """`wanted` is the launch without mounts, which are asked for once."""

    def __init__(self, wanted: Launch) -> None:
        self.wanted = wanted
        self.monitor: Future[Monitor | None] = Future()
        self.over = trio.Event()


async def fork(containers: Containers, container: Container, wanted: Launch, runtime: Runtime) -> Monitor:
    """A monitor that has built its sandbox. The storage's mounts come first, then the runtime's."""
    shutil.rmtree(wanted.run_dir, ignore_errors=True)
    os.makedirs(wanted.run_dir, mode=0o700)
    for mount_point in (wanted.root, wanted.stage):
        if mount_point:
            os.makedirs(mount_point, mode=0o700, exist_ok=True)
    throwaway = container.record.host_config.auto_remove  # nobody reads it after a power cut: no write is waited for
    mounts = (*await containers.engine.storage.mounts(wanted.id, volatile=throwaway), *runtime.monitor_mounts())
    monitor, _ = await Monitor.launch(containers.engine.zygote, replace(wanted, mounts=mounts), containers.engine.nursery)
    return monitor


def begin(containers: Containers, container: Container, wanted: Launch, runtime: Runtime) -> None:
    if len(containers.prepared_sandboxes) < _MOST and not containers.closing:
        containers.prepared_sandboxes[container.id] = prepared_sandbox = PreparedSandbox(wanted)
        containers.background(_keep, containers, container, prepared_sandbox, runtime)


async def _keep(containers: Containers, container: Container, prepared_sandbox: PreparedSandbox, runtime: Runtime) -> None:
    try:
        prepared_sandbox.monitor.set(await fork(containers, container, prepared_sandbox.wanted, runtime))
    except (OrlopError, OSError):
        pass  # the start meets it again, and tells
    finally:
        prepared_sandbox.monitor.set(None)
    with trio.move_on_after(_SECONDS):
        await prepared_sandbox.over.wait()
        return
    async with container.lock:
        if containers.prepared_sandboxes.get(container.id) is prepared_sandbox:
            await drop(containers, container)


async def take(containers: Containers, container: Container, wanted: Launch) -> Monitor | None:
    """What was made ahead, if it is what is wanted now."""
    prepared_sandbox = containers.prepared_sandboxes.pop(container.id, None)
    if prepared_sandbox is None:
        return None
    prepared_sandbox.over.set()
    monitor = await prepared_sandbox.monitor.get()
    if monitor is None or (prepared_sandbox.wanted == wanted and not monitor.is_over):
        return monitor
    await _end(monitor)
    return None


async def drop(containers: Containers, container: Container) -> None:
    """Have nothing ahead: the container goes, or its root is wanted by others."""
    prepared_sandbox = containers.prepared_sandboxes.pop(container.id, None)
    if prepared_sandbox is None:
        return
    prepared_sandbox.over.set()
    if (monitor := await prepared_sandbox.monitor.get()) is not None:
        await _end(monitor)
    containers.remove_run_directories(container.id)


async def _end(monitor: Monitor) -> None:
    with trio.move_on_after(_PATIENCE, shield=True):
        monitor.kill()
        await monitor.ended()
