"""Execs in answers of the API."""

from __future__ import annotations

import base64
from typing import Any

from orlop_engine.containers.exec_state import ExecState

__all__ = ["exec_view"]


def exec_view(state: ExecState, *, can_remove: bool) -> dict[str, Any]:
    """`GET /exec/{id}/json`."""
    config = state.config
    return {
        "ID": state.id,
        "Running": state.running,
        "ExitCode": state.exit_code,
        "ProcessConfig": {
            "tty": config.tty,
            "entrypoint": state.command[0],
            "arguments": state.command[1:],
            "privileged": config.privileged,
            **({"user": config.user} if config.user else {}),
        },
        "OpenStdin": config.attach_stdin,
        "OpenStderr": config.attach_stderr,
        "OpenStdout": config.attach_stdout,
        "CanRemove": can_remove,
        "ContainerID": state.container.id,
        "DetachKeys": base64.b64encode(state.detach_keys).decode() if config.detach_keys else "",
        "Pid": state.pid,
    }
