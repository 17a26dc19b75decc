"""Account for the end of a run: release the network, commit the row, publish events, wake waiters, apply the restart policy
and auto-remove.

One task for each run waits for the monitor's `Exited`, or for the monitor's end without one (then the exit code is read
from `exit.json`, or is 255 without it). No other code accounts for an exit.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import trio

from orlop_engine.processes import runs
from orlop_monitor.protocol import Exited
from orlop_sdk import DeadlineExceeded, OrlopError

from . import restarts, runtime, volumes
from .container import Container, Run

if TYPE_CHECKING:
    from .service import Containers

__all__ = ["clean_up", "finish", "record_again", "watch"]

log = logging.getLogger("orlop.containers")

UNKNOWN_EXIT = 255
_RECORD_AGAIN = 1.0  # seconds
ZYGOTE_PATIENCE = 2.0
_CLEAN_UP = 30.0


async def watch(containers: Containers, container: Container, run: Run) -> None:
    """Wait for the end of a run, and account for it."""
    assert run.monitor is not None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_told, run, nursery.cancel_scope)
        await run.monitor.ended()
        nursery.cancel_scope.cancel()
    if run.exited.is_set():
        exited = await run.exited.get()
    else:
        exited = await _found(run)
        await runtime.clean(containers, container)
    await run.settled.wait()
    if container.run is run:
        await account(containers, container, run, exited)


async def _told(run: Run, scope: trio.CancelScope) -> None:
    """The normal case: the monitor reports the exit before it cleans up."""
    await run.exited.get()
    scope.cancel()


async def _found(run: Run) -> Exited:
    """The exit of a run whose monitor died. The zygote empties the cgroup and writes the record; if it died too, do it
    here."""
    with trio.move_on_after(ZYGOTE_PATIENCE):
        while (record := runs.exit_record(run.run_dir)) is None:  # noqa: ASYNC110 - a file of another process
            await trio.sleep(0.01)
        return Exited(record.code, record.time_ns, record.oom)
    if (init := runs.init_record(run.run_dir)) is not None:
        await trio.to_thread.run_sync(runs.kill_cgroups, init)
    return Exited(UNKNOWN_EXIT, time.time_ns())


async def clean_up(containers: Containers, container: Container, run: Run) -> None:
    """Wait until a run has been cleaned up: its exit is accounted for, and its monitor has ended. If the monitor died
    after it reported the exit, do the rest of its cleanup here; if it hangs, kill it. Raises `DeadlineExceeded` when it
    does not die."""
    await run.finished.wait()
    monitor = run.monitor
    assert monitor is not None
    with trio.move_on_after(_CLEAN_UP) as patience:
        await monitor.ended()
    if not patience.cancelled_caught:
        if runtime.is_left(containers, container, run):
            await runtime.clean(containers, container)
        return
    log.error("container %s has ended, its monitor (pid %d) hangs and is killed", container.name, monitor.pid)
    monitor.kill()
    with trio.move_on_after(_CLEAN_UP):
        await monitor.ended()
        await runtime.clean(containers, container)
        return
    raise DeadlineExceeded(
        f"container {container.name} is still being cleaned up: its monitor (pid {monitor.pid}) does not end"
    )


async def account(containers: Containers, container: Container, run: Run, exited: Exited) -> None:
    """Account for the exit: network, row, events, waiters; then the restart policy."""
    record = container.record
    try:
        await containers.release_network(container)
    except Exception:
        log.exception("container %s has ended, and not all of its network is given back", container.name)
    volumes.announce(containers, container, "unmount")
    ran_for = (exited.time_ns - record.state.started_ns) / 1e9
    again = _wanted_again(containers, container, exited.code)
    record.paused_by_engine = False
    record.state = record.state.after_exit(exited.code, exited.time_ns, exited.oom, restart=again)
    gone = record.host_config.auto_remove and not again and not containers.restarting_now(container)
    if not gone:
        await _record(containers, container, run)
    if again and not _wanted_again(containers, container, exited.code):  # a stop or a kill came while the row was written
        again = False
        record.state = record.state.after_cancelled_restart()
        await _record(containers, container, run)
    container.touch()
    attributes = containers.attributes(container, exitCode=str(exited.code), execDuration=str(int(ran_for)))
    if exited.oom and not run.oom_told:
        containers.engine.events.publish("container", "oom", container.id, containers.attributes(container))
    containers.engine.events.publish("container", "die", container.id, attributes)
    containers.engine.execs.container_ended(container)
    container.exit_announced(exited.code)
    run.finished.set()
    if again:
        container.restart_delay = restarts.next_delay(container.restart_delay, ran_for)
        containers.background(_restart_later, containers, container, run)
    elif gone:
        containers.background(containers.auto_remove, container)
    else:
        containers.background(finish, containers, container, run)


def _wanted_again(containers: Containers, container: Container, code: int) -> bool:
    record = container.record
    policy = record.host_config.restart_policy
    # `docker kill -s HUP` counts as a manual stop for "unless-stopped", but does not end "always".
    by_user = container.stop_requested or containers.closing or (record.manually_stopped and policy.name == "unless-stopped")
    return restarts.wants_restart(policy, code, record.restart_count, by_user)


async def _record(containers: Containers, container: Container, run: Run) -> None:
    """Commit the row. On a full disk the exit is published all the same, and recorded as soon as there is space. Until
    then the run directory is kept: its exit record tells the next daemon."""
    try:
        await containers.save(container)
    except OrlopError as error:
        log.error("cannot record the exit of container %s yet: %s", container.name, error)
        run.recorded = False


async def record_again(containers: Containers, container: Container) -> None:
    """Retry the commit until it succeeds, because a full disk is temporary."""
    while container.id in containers.index:
        await trio.sleep(_RECORD_AGAIN)
        try:
            await containers.save(container)
        except OrlopError:
            continue  # logged already
        return


async def finish(containers: Containers, container: Container, run: Run) -> None:
    """Clean up after an exit without restart: wait until the run is cleaned up, and its exit recorded."""
    await clean_up(containers, container, run)
    if not run.recorded:
        await record_again(containers, container)
        run.recorded = True
    if container.run is run:
        containers.settle(container)


async def _restart_later(containers: Containers, container: Container, run: Run) -> None:
    with trio.CancelScope() as scope:
        container.restart_timer = scope
        await trio.sleep(container.restart_delay)
    container.restart_timer = None
    if scope.cancelled_caught or container.run is not run or containers.closing:
        return
    async with container.lock:
        if container.run is not run or container.record.removing or not container.record.state.restarting:
            return
        try:
            await containers.start_locked(container, again=True)
        except Exception as error:
            log.warning("cannot restart container %s: %s", container.name, error)
