"""Start and shutdown of the daemon. This module decides which containers keep running, which are stopped, and which are
started.

With live-restore, the daemon adopts running containers. Without live-restore, it stops containers that a crashed daemon left
running.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterator, Mapping, Sequence

import trio

from orlop_engine.config import Config
from orlop_engine.networks.records import Sandbox
from orlop_engine.processes import runs
from orlop_engine.processes.watchdog import PATIENCE
from orlop_kernel.failures import as_orlop_error

from . import adoption, lifecycle, needs, prepared_sandbox, removal, restarts, run_cleanup, stopping, volumes
from .container import Container
from .index import ContainerIndex
from .paths import ContainerPaths
from .ports import Ports
from .record import ContainerRecord

__all__ = ["any_alive", "restore", "shutdown"]

log = logging.getLogger("orlop.containers")

_STARTS = 8
_NEEDED = 30.0  # seconds to wait for the containers that must run before a container is started (see `needs`)
# seconds that a starting daemon waits at most for the state of all containers, before it serves requests
_PROMPT = 0.1
_SLOW = 1.0  # seconds after which a shutdown logs the containers that it still waits for; usually all have ended by then
_NAMED = 10  # the log message of a slow shutdown names at most this many containers


async def restore(ports: Ports) -> None:
    """Restore all containers. Returns when requests can be served: running containers are shown as running, and containers
    that a restart policy will start are shown as restarting. The remaining steps run in the background, for each container
    separately."""
    known, turns = {item.id: trio.Event() for item in ports.index}, trio.Lock()
    for container in list(ports.index):
        ports.background.start(_recover, ports, container, known[container.id], turns)
    with trio.move_on_after(_PROMPT):
        for event in known.values():
            await event.wait()
    # Loading the network drivers takes longest, so it begins after the daemon has begun to serve requests. Until the drivers
    # are loaded, requests that use networks wait.
    quarantined = _quarantined_alive(ports)
    ports.background.start(_restore_networks, ports, [sandbox for sandbox in quarantined.values() if sandbox is not None])
    await _sweep_runs(ports, {*quarantined, *(container.id for container in _undecided(ports.index, known))})
    ports.background.start(ports.volumes.unmount_orphans, lambda key: key in ports.index or key in ports.index.quarantined)
    await volumes.discard_orphans(ports)
    await removal.sweep(ports)
    tried = {key: trio.Event() for key in known}
    for container in ports.index:
        if known[container.id].is_set():
            _announce_start(container, tried[container.id])
    ports.background.start(_bring_up, ports, known, tried)


async def _recover(ports: Ports, container: Container, known: trio.Event, turns: trio.Lock) -> None:
    try:
        await adoption.recover(ports, container, known, turns)
    finally:
        known.set()


def _undecided(index: ContainerIndex, known: Mapping[str, trio.Event]) -> list[Container]:
    return [item for item in index if not known[item.id].is_set()]


def _quarantined_alive(ports: Ports) -> dict[str, Sandbox | None]:
    """Quarantined containers that are running. This version of Orlop cannot operate on them. Their run directories are kept,
    because another version may be able to read their rows."""
    if not ports.config.live_restore:
        return {}
    found = {key: ports.index.quarantined[key] for key in quarantined_alive(ports.index, ports.paths)}
    for key in found:
        log.error("container %s keeps running, but cannot be managed: its row is quarantined", key[:12])
    return found


def quarantined_alive(index: ContainerIndex, paths: ContainerPaths) -> Iterator[str]:
    """The quarantined containers that are still running."""
    return (key for key in index.quarantined if runs.monitor_lives(paths.run_dir(key)))


def any_alive(index: ContainerIndex, paths: ContainerPaths) -> bool:
    """Whether any container runs, or any monitor is still cleaning up after a container."""
    known = any(item.record.state.running or item.run is not None for item in index)
    return known or any(quarantined_alive(index, paths))


async def _restore_networks(ports: Ports, quarantined: Sequence[Sandbox]) -> None:
    await ports.serving.wait()
    held = [item.record.sandbox for item in ports.index if item.record.sandbox is not None]
    ports.state.networks_restored = True
    began = trio.current_time()
    await ports.networks.restore([*held, *quarantined])
    log.debug("networks are up after %.0f ms", (trio.current_time() - began) * 1000)


async def _sweep_runs(ports: Ports, keep: Collection[str]) -> None:
    """End monitors and remove run directories that belong to no row."""
    kept = {
        *(ports.paths.run_name(key) for key in keep),
        *(ports.paths.run_name(item.id) for item in ports.index if item.run),
    }
    # In parallel, because each sweep waits until the processes of its run have died
    async with trio.open_nursery() as nursery:
        for name in set(os.listdir(ports.paths.runs_root)) - kept:
            nursery.start_soon(_sweep_run, ports.paths, name)


async def _sweep_run(paths: ContainerPaths, name: str) -> None:
    run_dir = os.path.join(paths.runs_root, name)
    try:
        adoption.kill_monitor(run_dir)
        if (init := runs.init_record(run_dir)) is not None:
            await trio.to_thread.run_sync(runs.kill_cgroups, init)
        paths.remove_run(name)
        if os.path.lexists(run_dir) and not os.path.isdir(run_dir):
            os.unlink(run_dir)  # a run directory is never a file, so this is another program's file
    except Exception as error:
        log.error("cannot remove files of run %s: %s", name, as_orlop_error(error, "cannot remove them"))


def _patience(config: Config, container: Container) -> int:
    """The stop timeout, in seconds, of a container that a starting daemon stops. It is never infinite, because the daemon
    must not wait for ever."""
    own, config = stopping.stop_timeout(config, container), config
    return next(seconds for seconds in (own, config.shutdown_timeout, config.default_stop_timeout) if seconds >= 0)


async def _stop_orderly(ports: Ports, container: Container, seconds: int | None = None) -> None:
    try:
        stopping.expedite(ports.config, container, seconds)
        async with container.lock:
            if container.record.state.running:
                before = container.record.manually_stopped
                await stopping.stop_locked(ports, container, stopping.stop_signal(container, ""), seconds)
                async with ports.rows.change(container) as draft:
                    draft.manually_stopped = before
    except Exception as error:
        log.error("container %s: %s", container.name, as_orlop_error(error, "cannot stop it"))


async def _bring_up(ports: Ports, known: Mapping[str, trio.Event], tried: Mapping[str, trio.Event]) -> None:
    """Stop containers that must not run, and start the containers that the restart policies require. This happens in
    parallel, so that a container that hangs delays no other container. Containers that other containers need are started
    first. `known` and `tried` contain an event for each container. The event in `known` is set when the container's state is
    known. The event in `tried` is set when the daemon has tried to start the container."""
    limit = trio.CapacityLimiter(_STARTS)
    wanted = needs.order(ports.index, ports.networks)
    living = [item for item in ports.index if item.run is not None and item.owed_start is None]

    async def bring_up(container: Container) -> None:
        if container not in living:
            await known[container.id].wait()
        elif not ports.config.live_restore:
            log.warning("stopping container %s, which an earlier daemon left running: live-restore is off", container.name)
            if container.run is not None:  # a frozen container is detected only when the monitor has answered
                with trio.move_on_after(PATIENCE):
                    await container.run.settled.wait()
            await _stop_orderly(ports, container, _patience(ports.config, container))
        with trio.move_on_after(_NEEDED):
            for other in wanted[container.id] & tried.keys():
                await tried[other].wait()
        async with limit:
            await _start_if_wanted(ports, container, tried[container.id])

    async def one(container: Container) -> None:
        try:
            await bring_up(container)
        except Exception as error:
            log.error("container %s: %s", container.name, as_orlop_error(error, "cannot start it"))
        finally:
            tried[container.id].set()
            container.owed_start = None

    async with trio.open_nursery() as nursery:
        # Containers that were created meanwhile are not started
        for container in [ports.index.by_id[key] for key in wanted if key in tried]:
            nursery.start_soon(one, container)


def _announce_start(container: Container, tried: trio.Event) -> None:
    """Show a container as restarting until the daemon has tried to start it. dockerd serves no requests before it has tried
    these starts, so its clients never see this state."""
    if container.owed_start is None and _is_owed_a_start(container.record):
        container.owed_start = tried
        with container.publish() as draft:  # not committed, because the next daemon decides again
            draft.state = draft.state.after_start_announcement()


def _is_owed_a_start(record: ContainerRecord) -> bool:
    if record.state.running or record.removing or (record.host_config.auto_remove and record.started_before):
        return False
    return restarts.wants_start_at_boot(
        record.host_config.restart_policy,
        record.started_before,
        record.manually_stopped,
        record.state.exit_code,
        record.restart_count,
    )


async def _start_if_wanted(ports: Ports, container: Container, tried: trio.Event) -> None:
    _announce_start(container, tried)
    record = container.record
    if container.owed_start is not None:
        async with container.lock:
            record = container.record
            # A client may have stopped, started or removed the container meanwhile
            if record.state.restarting and container.id in ports.index and not record.removing:
                with container.publish() as draft:  # as in dockerd, the count is reset; the start commits this change
                    draft.restart_count = 0
                await lifecycle.start_locked(ports, container)
    elif record.state.running:
        return
    elif record.removing:
        # The previous daemon died during the removal.
        with container.publish() as draft:  # not committed, because the row is about to be deleted
            draft.removing = False
        volumes_too = record.host_config.auto_remove or record.removing_volumes
        await removal.remove(ports, container, force=True, volumes=volumes_too)
    elif record.host_config.auto_remove and record.started_before:
        await removal.auto_remove(ports, container)


async def shutdown(ports: Ports, *, leave_running: bool) -> None:
    """Stop all containers in parallel, each within its stop timeout. With `leave_running`, all containers keep running under
    their monitors. From now on, no container is started."""
    ports.state.closing = True
    for container in ports.index:
        if container.restart_timer is not None:
            container.restart_timer.cancel()
        if container.owed_start is not None:
            stopping.cancel_restart(container)
    if not leave_running:
        # A container with a `run` may still be starting; such a container must be stopped as well
        running = [item for item in ports.index if item.record.state.running or item.run is not None]
        async with trio.open_nursery() as reporting:
            reporting.start_soon(_report_slow, ports, running)
            async with trio.open_nursery() as nursery:
                for container in running:
                    nursery.start_soon(_stop_orderly, ports, container)
            reporting.cancel_scope.cancel()
    # Wait for the monitors of exited containers, because they still remove cgroups and mounts.
    with trio.move_on_after(5):
        async with trio.open_nursery() as nursery:
            for container in list(ports.index):
                nursery.start_soon(_settle_run, ports, container)


async def _report_slow(ports: Ports, stopping: Sequence[Container]) -> None:
    """Log once which containers the shutdown still waits for."""
    await trio.sleep(_SLOW)
    slow = [item for item in stopping if item.record.state.running]
    named = [f"{item.name} ({_shown_patience(ports.config, item)})" for item in slow[:_NAMED]]
    if len(slow) > _NAMED:
        named.append(f"and {len(slow) - _NAMED} more")
    if named:
        log.info("waiting for containers to stop; each is killed after its timeout: %s", ", ".join(named))


def _shown_patience(config: Config, container: Container) -> str:
    seconds = stopping.stop_timeout(config, container)
    return f"{seconds} s" if seconds >= 0 else "no limit"


async def _settle_run(ports: Ports, container: Container) -> None:
    if container.id in ports.prepared_sandboxes:
        async with container.lock:
            await prepared_sandbox.drop(ports, container)
    run = container.run
    # If the run has no monitor yet, its start is still in progress, and is undone when the daemon ends
    if run is not None and not container.record.state.running and run.monitor is not None:
        await run.monitor.ended()
        if run.recorded and container.run is run:
            run_cleanup.settle(ports.paths, container)
