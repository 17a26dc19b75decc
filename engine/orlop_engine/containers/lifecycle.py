"""Start, restart and rename a container. After the end of a run, this module restarts the container, removes it, or only
cleans up after the run. Each operation takes the container's lock, checks the state (errors have Docker's messages), acts,
commits, and publishes events.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack

import trio
from msgspec import UNSET

from orlop_kernel.failures import as_orlop_error
from orlop_sdk import Conflict, DriverError, InvalidParameter, NotFound, NotModified, OrlopError, Unavailable

from . import connections, exits, names, needs, probes, removal, run_cleanup
from .container import Container, Run
from .exits import Then
from .ports import Ports
from .stopping import expedite, stop_locked, stop_signal

__all__ = ["rename", "restart", "start", "start_locked", "supervise"]

log = logging.getLogger("orlop.containers")


async def start(ports: Ports, container: Container, checkpoint: str = "", directory: str = "") -> None:
    """Start a container. If `checkpoint` is not "", it is the name of the checkpoint to restore. The checkpoint is in
    `directory`, or in the container's own directory if `directory` is ""."""
    for key in needs.needed(ports.index, ports.networks, container.record):
        if (other := ports.index.by_id.get(key)) is not None:
            await other.boot_start_tried()
    async with container.lock:
        state = container.record.state
        if container.record.removing or state.dead:
            raise Conflict("container is marked for removal and cannot be started")
        if state.paused:
            raise Conflict("cannot start a paused container, try unpause instead")
        if state.running:  # `running` is also true while a restart policy waits before the next start
            raise NotModified("container is already running")
        image = ""
        if checkpoint:
            from . import checkpoints

            image = checkpoints.find(ports.paths, container, checkpoint, directory)
        _reset_restarts(container)
        await start_locked(ports, container, image)


def _reset_restarts(container: Container) -> None:
    """Reset the restart delay and count, because a user starts the container. The start commits the change."""
    container.restart_delay = 0.0
    with container.publish() as draft:
        draft.restart_count = 0


async def start_locked(ports: Ports, container: Container, image: str = "", *, again: bool = False) -> None:
    """Start a container in any state except running; the caller holds the lock. `image`: the directory of a checkpoint.
    `again` is true if the restart policy has caused this start. Such a start is skipped if a client has requested a stop or
    a kill since the exit."""
    from .launch import launch  # imported here, because it is not needed before the daemon serves requests

    if container.record.removing or container.row_going or container.record.state.dead:
        raise Conflict("container is marked for removal and cannot be started")
    if ports.state.closing:
        raise Unavailable(f"cannot start container {container.id}: the daemon is shutting down")
    try:
        if container.run is not None:
            await run_cleanup.clean_up(ports, container, container.run)
        if again and not container.record.state.restarting:
            return
        container.stop_requested = False
        with container.publish() as draft:  # `launch` or `_failed` commits this change
            draft.restart_count += again
            draft.manually_stopped = False
        if container.record.emulated is not UNSET:
            from . import emulation

            await trio.to_thread.run_sync(emulation.check, container.record.emulated)
        with ports.counters.timed("container", "start"):
            run = await launch(ports, container, image)
    except Exception as error:
        failure = as_orlop_error(error, f"cannot start container {container.name}")
        raise await _failed(ports, container, failure) from error
    ports.background.start(supervise, ports, container, run)
    ports.background.start(probes.watch, ports, container, run)
    # `launch` has committed the start. The commit of the pid can wait, because the next daemon finds the pid in the
    # monitor's record.
    ports.background.start(ports.rows.save, container)
    container.touch()
    connections.announce(ports, container, "connect")
    ports.events.publish_volumes(container, "mount")
    ports.events.publish(container, "start")
    run.settled.set()


async def _failed(ports: Ports, container: Container, error: OrlopError) -> OrlopError:
    """Record why a start failed, with Docker's exit codes. Clients derive their exit codes from these codes."""
    text, code, answer = str(error), 128, error
    # The exit codes 126 and 127 are only for errors of the runtime; all other errors have code 128
    lower = text.lower() if "failed to create task" in text else ""
    if "permission denied" in lower or "is a directory" in lower:
        if "is a directory" in lower:
            text += ": permission denied"
        code, answer = 126, InvalidParameter(text)
    elif "not a directory" in lower:
        text += (
            ": Are you trying to mount a directory onto a file (or vice-versa)? Check if the specified host path exists "
            "and is the expected type"
        )
        code, answer = 127, InvalidParameter(text)
    elif any(
        words in lower
        for words in ("executable file not found", "no such file or directory", "system cannot find the file specified")
    ):
        code, answer = 127, InvalidParameter(text)
    elif lower:
        answer = DriverError(text)
    with container.publish() as draft:  # clients see this even if a full disk prevents the commit
        draft.state = draft.state.after_failed_start(code, text)
    container.exit_announced(code)
    if container.record.host_config.auto_remove:
        ports.background.start(removal.auto_remove, ports, container)
    else:
        try:
            await ports.rows.save(container)
        except OrlopError as failure:
            log.error("cannot record why container %s did not start: %s", container.name, failure)
    return answer


async def supervise(ports: Ports, container: Container, run: Run) -> None:
    """Wait for the end of a run, and process the exit. Then restart the container, remove the container, or only clean
    up."""
    then = await exits.watch(ports, container, run)
    if then is Then.RESTART:
        await _restart_later(ports, container, run)
    elif then is Then.REMOVE:
        await removal.auto_remove(ports, container)
    elif then is Then.CLEAN_UP:
        await run_cleanup.finish(ports, container, run)


async def _restart_later(ports: Ports, container: Container, run: Run) -> None:
    with trio.CancelScope() as scope:
        container.restart_timer = scope
        await trio.sleep(container.restart_delay)
    container.restart_timer = None
    if scope.cancelled_caught or container.run is not run or ports.state.closing:
        return
    async with container.lock:
        if container.run is not run or container.record.removing or not container.record.state.restarting:
            return
        try:
            await start_locked(ports, container, again=True)
        except Exception as error:
            log.warning("cannot restart container %s: %s", container.name, error)


async def restart(ports: Ports, container: Container, given: str = "", seconds: int | None = None) -> None:
    signum = stop_signal(container, given)
    expedite(ports.config, container, seconds)
    async with container.lock:
        container.being_restarted = True
        try:
            if container.record.state.running:
                await _find_drivers(ports, container)
                await stop_locked(ports, container, signum, seconds)
                ports.events.publish(container, "stop")
            _reset_restarts(container)
            await start_locked(ports, container)
        finally:
            container.being_restarted = False
    ports.events.publish(container, "restart")


async def _find_drivers(ports: Ports, container: Container) -> None:
    """Load the drivers that a start needs. A restart calls this before the stop, so that it does not stop a container that
    cannot be started again (for example because a driver was uninstalled)."""
    record = container.record
    try:
        await ports.drivers.runtime(*record.runtime)
        await ports.drivers.log(*record.log_driver)
        for mount in record.mounts:
            if mount.type == "volume" and mount.driver:
                await ports.drivers.volume(mount.driver, ports.volumes.get(mount.name).made_with)
        for network in ports.networks.networks_of(record.sandbox) if record.sandbox else ():
            await ports.drivers.network(network.driver)
    except OrlopError as error:
        raise type(error)(f"cannot restart container {container.name}, which keeps running: {error}") from error


async def rename(ports: Ports, container: Container, given: str) -> None:
    if not given:
        raise InvalidParameter("Neither old nor new names may be empty")
    async with container.lock:
        if container.record.removing or container.row_going:
            raise NotFound(f"No such container: {container.id}")
        old = container.record.name
        if given.removeprefix("/") == old:
            raise InvalidParameter("Renaming a container with the same name as its current name")
        await _rename(ports, container, given)
    ports.events.publish(container, "rename", oldName=f"/{old}")


async def _rename(ports: Ports, container: Container, given: str) -> None:
    old = container.record.name
    with ExitStack() as stack:
        try:
            wanted = names.check(f"/{given.removeprefix('/')}")
            new = stack.enter_context(ports.index.reserve_name(wanted, container.id))
        except (Conflict, InvalidParameter) as error:
            raise type(error)(f"Error when allocating new name: {error}") from error
        before = container.record.sandbox
        after = ports.networks.renamed(before, new) if before is not None else None
        async with ports.rows.change(container) as draft:
            draft.name, draft.sandbox = new, after
    ports.index.release_name(old, container.id)
    if after is not None and container.record.sandbox is after:
        ports.networks.update_members(after)
    container.touch()
