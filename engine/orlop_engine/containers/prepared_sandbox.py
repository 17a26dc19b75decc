"""Sandboxes that are prepared before a start. A client such as `docker run` needs some milliseconds between create and
start. In this time the daemon forks the monitor, which builds the sandbox. The start uses the prepared sandbox if the
sandbox still matches the launch request.

This module manages monitors that have not started a container. Such a monitor ends when the daemon ends, when its container
is removed, or when no start follows within a second. All functions except `begin` are called with the container's lock held.
"""

from __future__ import annotations

import os
import shutil

import trio
from msgspec.structs import replace

from orlop_engine.calls import asked
from orlop_engine.processes.monitor_client import MonitorClient
from orlop_monitor.protocol import Launch
from orlop_sdk import OrlopError, Runtime

from .container import Container, PreparedSandbox
from .ports import Ports

__all__ = ["begin", "drop", "fork", "take"]

_SECONDS = 1.0
_PATIENCE = 5.0  # seconds to wait for a killed monitor to end
_MOST = 8  # limit on prepared sandboxes, because some clients create containers without starting them


async def fork(ports: Ports, container: Container, wanted: Launch, runtime: Runtime) -> MonitorClient:
    """Fork a monitor, which builds the sandbox. The monitor makes the mounts of the storage driver first, then the mounts
    that the runtime needs."""
    shutil.rmtree(wanted.run_dir, ignore_errors=True)
    os.makedirs(wanted.run_dir, mode=0o700)
    for mount_point in (wanted.root, wanted.stage):
        if mount_point:
            # The runtime, as root of a user namespace, must be able to traverse the directory
            os.makedirs(mount_point, mode=0o711 if wanted.ids else 0o700, exist_ok=True)
    unlisted = container.unlisted
    # The root of a container with --rm is removed at exit, so its files need not be synced to the disk. The root of a build
    # step is synced when the step is committed
    volatile = container.record.host_config.auto_remove or unlisted is not None
    key = unlisted.snapshot if unlisted else wanted.id
    mounts = (*await ports.storage.mounts(key, volatile=volatile), *await asked(runtime.monitor_mounts))
    wanted = replace(wanted, mounts=mounts)
    outputs = unlisted.outputs if unlisted else ()
    monitor, _ = await MonitorClient.launch(ports.zygote, wanted, ports.background.nursery, fds=outputs)
    return monitor


def begin(ports: Ports, container: Container, wanted: Launch, runtime: Runtime) -> None:
    if len(ports.prepared_sandboxes) < _MOST and not ports.state.closing:
        ports.prepared_sandboxes[container.id] = prepared_sandbox = PreparedSandbox(wanted)
        ports.background.start(_keep, ports, container, prepared_sandbox, runtime)


async def _keep(ports: Ports, container: Container, prepared_sandbox: PreparedSandbox, runtime: Runtime) -> None:
    try:
        prepared_sandbox.monitor.set(await fork(ports, container, prepared_sandbox.wanted, runtime))
    except (OrlopError, OSError):
        pass  # the start will fail with the same error, and report it
    finally:
        prepared_sandbox.monitor.set(None)
    with trio.move_on_after(_SECONDS):
        await prepared_sandbox.over.wait()
        return
    async with container.lock:
        if ports.prepared_sandboxes.get(container.id) is prepared_sandbox:
            await drop(ports, container)


async def take(ports: Ports, container: Container, wanted: Launch) -> MonitorClient | None:
    """The prepared monitor; None if there is none, or if its sandbox does not match the launch request `wanted`."""
    prepared_sandbox = ports.prepared_sandboxes.pop(container.id, None)
    if prepared_sandbox is None:
        return None
    prepared_sandbox.over.set()
    monitor = await prepared_sandbox.monitor.get()
    if monitor is None or (prepared_sandbox.wanted == wanted and not monitor.is_over):
        return monitor
    await _end(monitor)
    return None


async def drop(ports: Ports, container: Container) -> None:
    """End the prepared sandbox, if the container has one. Called when the container is removed or when another operation
    needs its root."""
    prepared_sandbox = ports.prepared_sandboxes.pop(container.id, None)
    if prepared_sandbox is None:
        return
    prepared_sandbox.over.set()
    if (monitor := await prepared_sandbox.monitor.get()) is not None:
        await _end(monitor)
    ports.paths.remove_run_directories(container.id)


async def _end(monitor: MonitorClient) -> None:
    with trio.move_on_after(_PATIENCE, shield=True):
        monitor.kill()
        await monitor.ended()
