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

from orlop_engine.futures import Once
from orlop_engine.processes.monitor_client import Monitor
from orlop_monitor.protocol import Launch
from orlop_sdk import OrlopError, Runtime

from .container import Container

if TYPE_CHECKING:
    from .service import Containers

__all__ = ["Ahead", "begin", "drop", "fork", "take"]

_SECONDS = 1.0
_PATIENCE = 5.0  # with one that does not die
_MOST = 8  # of clients that only create


class Ahead:
    """`wanted` is the launch without mounts, which are asked for once."""

    def __init__(self, wanted: Launch) -> None:
        self.wanted = wanted
        self.monitor: Once[Monitor | None] = Once()
        self.over = trio.Event()


async def fork(room: Containers, container: Container, wanted: Launch, runtime: Runtime) -> Monitor:
    """A monitor that has built its sandbox. The storage's mounts come first, then the runtime's."""
    shutil.rmtree(wanted.run_dir, ignore_errors=True)
    os.makedirs(wanted.run_dir, mode=0o700)
    for mount_point in (wanted.root, wanted.stage):
        if mount_point:
            os.makedirs(mount_point, mode=0o700, exist_ok=True)
    throwaway = container.record.host_config.auto_remove  # nobody reads it after a power cut: no write is waited for
    mounts = (*await room.engine.storage.mounts(wanted.id, volatile=throwaway), *runtime.monitor_mounts())
    monitor, _ = await Monitor.launch(room.engine.zygote, replace(wanted, mounts=mounts), room.engine.nursery)
    return monitor


def begin(room: Containers, container: Container, wanted: Launch, runtime: Runtime) -> None:
    if len(room.ahead) < _MOST and not room.closing:
        room.ahead[container.id] = ahead = Ahead(wanted)
        room.background(_keep, room, container, ahead, runtime)


async def _keep(room: Containers, container: Container, ahead: Ahead, runtime: Runtime) -> None:
    try:
        ahead.monitor.set(await fork(room, container, ahead.wanted, runtime))
    except (OrlopError, OSError):
        pass  # the start meets it again, and tells
    finally:
        ahead.monitor.set(None)
    with trio.move_on_after(_SECONDS):
        await ahead.over.wait()
        return
    async with container.lock:
        if room.ahead.get(container.id) is ahead:
            await drop(room, container)


async def take(room: Containers, container: Container, wanted: Launch) -> Monitor | None:
    """What was made ahead, if it is what is wanted now."""
    ahead = room.ahead.pop(container.id, None)
    if ahead is None:
        return None
    ahead.over.set()
    monitor = await ahead.monitor.get()
    if monitor is None or (ahead.wanted == wanted and not monitor.is_over):
        return monitor
    await _end(monitor)
    return None


async def drop(room: Containers, container: Container) -> None:
    """Have nothing ahead: the container goes, or its root is wanted by others."""
    ahead = room.ahead.pop(container.id, None)
    if ahead is None:
        return
    ahead.over.set()
    if (monitor := await ahead.monitor.get()) is not None:
        await _end(monitor)
    room.remove_run_directories(container.id)


async def _end(monitor: Monitor) -> None:
    with trio.move_on_after(_PATIENCE, shield=True):
        monitor.kill()
        await monitor.ended()
