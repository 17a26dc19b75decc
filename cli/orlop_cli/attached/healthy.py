"""Waits for health checks, for `wait --healthy`."""

from __future__ import annotations

import time

from orlop_cli._command import complain
from orlop_cli._errors import CliError, Exit
from orlop_cli.daemon.client import segment

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop_cli.daemon.client import Engine

__all__ = ["until_healthy", "wait_for_all"]

INTERVAL = 0.2  # probes are seconds apart


def wait_for_all(engine: Engine, names: Sequence[str], seconds: float | None) -> None:
    """Wait for the containers one after another, and print their names. `seconds` is the time limit for all containers
    together; None means no limit. Raises Exit(1) if a container did not become healthy."""
    end = None if seconds is None else time.monotonic() + seconds
    failed = False
    for name in names:
        try:
            until_healthy(engine, name, end)
        except CliError as error:
            complain(error)
            failed = True
        else:
            print(name, flush=True)
    if failed:
        raise Exit(1)


def until_healthy(engine: Engine, name: str, end: float | None) -> None:
    """Return when the container is healthy. Raises CliError if the container ends, is unhealthy or has no health check, or
    if the monotonic clock reaches `end`."""
    path = f"/containers/{segment(name)}/json"
    while True:
        state = engine.get(path)["State"]
        health = state.get("Health") or {}
        status = health.get("Status", "none")
        if not state["Running"] and not state.get("Restarting"):
            raise CliError(f"container {name} is not running ({state['Status']}, exit code {state['ExitCode']})")
        if state["Running"] and status == "healthy":
            return
        if status == "none":
            raise CliError(f"container {name} has no health check (see `orlop run --health-cmd`)")
        if status == "unhealthy":
            probes = health.get("Log") or [{}]
            output = (probes[-1].get("Output") or "").strip()
            raise CliError(f"container {name} is unhealthy" + (f": {output}" if output else ""))
        if end is not None and time.monotonic() >= end:
            raise CliError(f"container {name} did not become healthy in time ({status})")
        time.sleep(INTERVAL)
