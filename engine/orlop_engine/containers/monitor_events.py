"""Handles the reports of a container's monitor: exit of the container, exit of an exec, out of memory, lost log entries."""

from __future__ import annotations

import logging

from orlop_monitor.protocol import Event, ExecExited, Exited, LogLost, Oom, Status

from .container import Container, Run
from .ports import Ports

__all__ = ["note_lost_log", "on_event", "on_resumed"]

_log = logging.getLogger("orlop.containers")


def on_event(ports: Ports, container: Container, run: Run, event: Event) -> None:
    body = event.body
    if isinstance(body, Exited):
        run.exited.set(body)
    elif isinstance(body, ExecExited):
        ports.execs.exited(container, body)
    elif isinstance(body, Oom):
        run.oom_told = True
        # The change is published without a commit. If the container then exits, the commit of the exit also saves this
        # change
        with container.publish() as draft:
            draft.state = draft.state.after_oom()
        ports.events.publish(container, "oom")
    elif isinstance(body, LogLost):
        note_lost_log(ports, container, body.lost, body.reason)


def on_resumed(ports: Ports, container: Container, status: Status, asked_at: float) -> None:
    """Called when the daemon is connected to the monitor again. The monitor's current status replaces the reports that the
    daemon has missed meanwhile."""
    ports.execs.reconcile(container, status, asked_at)
    note_lost_log(ports, container, status.log_lost)


def note_lost_log(ports: Ports, container: Container, lost: int, reason: str = "") -> None:
    """Show lost log entries to clients. `lost` is the number of lost entries since the start of the run. The monitor limits
    how often it reports losses. The change is published without a commit; the commit of the exit saves it, and the monitor
    knows the number until then."""
    more = lost - container.record.log_lost
    if more <= 0:
        return
    with container.publish() as draft:
        draft.log_lost = lost
        draft.log_lost_reason = reason = reason or draft.log_lost_reason or "the driver dropped them"
    driver = container.record.host_config.log_config.type
    ports.counters.log_lost[(driver,)] += more
    _log.warning('container %s: log driver "%s" lost %d entries: %s', container.name, driver, more, reason)
    ports.events.publish(container, "log-lost", count=str(more), driver=driver, reason=reason)
