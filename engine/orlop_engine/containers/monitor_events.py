"""Handles the reports of a container's monitor: exit of the container, exit of an exec, out of memory."""

from __future__ import annotations

from orlop_monitor.protocol import Event, ExecExited, Exited, Oom

from .container import Container, Run
from .ports import Ports

__all__ = ["on_event"]


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
