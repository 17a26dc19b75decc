"""Process the end of a container's run: release the network, commit the row, publish events, wake waiting tasks, and decide
whether to restart or remove the container.

One task for each run waits for the monitor's message `Exited`, or for the end of the monitor. If the monitor ended without
the message, the exit code is read from `exit.json`. If this file is missing, the exit code is 255. Only this task processes
the exit of a container that has a row.
"""

from __future__ import annotations

import logging
import time
from enum import Enum, auto

import trio

from orlop_engine.processes import runs
from orlop_monitor.protocol import Exited
from orlop_sdk import OrlopError

from . import connections, restarts, runtime
from .container import Container, Run
from .monitor_events import note_lost_log
from .ports import DaemonState, Ports
from .rows import Rows

__all__ = ["UNKNOWN_EXIT", "Then", "outcome", "watch"]

log = logging.getLogger("orlop.containers")

UNKNOWN_EXIT = 255
ZYGOTE_PATIENCE = 2.0


class Then(Enum):
    """The action of the daemon after the end of a run."""

    RESTART = auto()
    """The restart policy wants another run, after `Container.restart_delay`."""
    REMOVE = auto()
    """The container was created with `--rm`."""
    CLEAN_UP = auto()
    NOTHING = auto()
    """The run that ended was not the container's current run."""


async def watch(ports: Ports, container: Container, run: Run) -> Then:
    """Wait for the end of a run, and process the exit. Returns the action that the caller must take."""
    exited = await outcome(ports, container, run)
    await run.settled.wait()
    return await account(ports, container, run, exited) if container.run is run else Then.NOTHING


async def outcome(ports: Ports, container: Container, run: Run) -> Exited:
    """Wait for the end of a run. If the run's monitor died, also remove the runtime's state and the cgroups of the run."""
    assert run.monitor is not None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_told, run, nursery.cancel_scope)
        await run.monitor.ended()
        nursery.cancel_scope.cancel()
    if run.exited.is_set():
        return await run.exited.get()
    exited = await _found(run)
    await runtime.clean(ports, container)
    return exited


async def _told(run: Run, scope: trio.CancelScope) -> None:
    """Wait until the monitor reports the exit, as it normally does at the end of a run. The monitor sends the report before
    it cleans up."""
    await run.exited.get()
    scope.cancel()


async def _found(run: Run) -> Exited:
    """The exit of a run whose monitor died. The zygote (the parent process of all monitors) kills the processes in the
    cgroup and writes the exit record. If the zygote died too, this function kills the processes and makes the exit
    record."""
    with trio.move_on_after(ZYGOTE_PATIENCE):
        while (record := runs.exit_record(run.run_dir)) is None:  # noqa: ASYNC110 - a file of another process
            await trio.sleep(0.01)
        return Exited(record.code, record.time_ns, record.oom, record.log_lost)
    if (init := runs.init_record(run.run_dir)) is not None:
        await trio.to_thread.run_sync(runs.kill_cgroups, init)
    return Exited(UNKNOWN_EXIT, time.time_ns())


async def account(ports: Ports, container: Container, run: Run, exited: Exited) -> Then:
    """Process the exit: release the network, commit the row, publish events, wake waiting tasks. Returns the action that the
    restart policy or `--rm` requires."""
    try:
        await connections.release(ports, container)
    except Exception:
        log.exception("container %s has ended, but not all of its network resources were released", container.name)
    ports.events.publish_volumes(container, "unmount")
    note_lost_log(ports, container, exited.log_lost)  # in case no daemon ran when the monitor reported the loss
    ran_for = (exited.time_ns - container.record.state.started_ns) / 1e9
    again = _wanted_again(ports.state, container, exited.code)
    # The exit is published before the commit, because the container has ended even if a full disk prevents the commit
    with container.publish() as draft:
        draft.paused_by_engine = False
        draft.state = draft.state.after_exit(exited.code, exited.time_ns, exited.oom, restart=again)
    gone = container.record.host_config.auto_remove and not again and not container.being_restarted
    if not gone:
        await _record(ports.rows, container, run)
    # A client requested a stop or a kill while the row was being written
    if again and not _wanted_again(ports.state, container, exited.code):
        again = False
        with container.publish() as draft:
            draft.state = draft.state.after_cancelled_restart()
        await _record(ports.rows, container, run)
    if exited.oom and not run.oom_told:
        ports.events.publish(container, "oom")
    ports.events.publish(container, "die", exitCode=str(exited.code), execDuration=str(int(ran_for)))
    ports.execs.container_ended(container)
    container.exit_announced(exited.code)
    run.finished.set()
    if again:
        container.restart_delay = restarts.next_delay(container.restart_delay, ran_for)
        return Then.RESTART
    return Then.REMOVE if gone else Then.CLEAN_UP


def _wanted_again(state: DaemonState, container: Container, code: int) -> bool:
    record = container.record
    policy = record.host_config.restart_policy
    # `docker kill -s HUP` is a manual stop, so the policy "unless-stopped" does not restart the container. The policy
    # "always" does.
    by_user = container.stop_requested or state.closing or (record.manually_stopped and policy.name == "unless-stopped")
    return restarts.wants_restart(policy, code, record.restart_count, by_user)


async def _record(rows: Rows, container: Container, run: Run) -> None:
    """Commit the row. On a full disk the exit is published anyway, and committed as soon as there is space. Until then the
    run directory is kept, because the next daemon reads the exit record in it."""
    try:
        await rows.save(container)
    except OrlopError as error:
        log.error("cannot record the exit of container %s yet: %s", container.name, error)
        run.recorded = False
