"""The health of a container, derived from the results of its probes. This module does no I/O: the module `probes` runs the
probes.

Health is kept only in memory. As with Docker, it is `starting` again after a restart of the daemon.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from msgspec import UNSET

from orlop_engine.types.containers import ContainerConfig, Healthcheck

__all__ = ["HEALTHY", "STARTING", "UNHEALTHY", "Health", "Result", "command"]

STARTING, HEALTHY, UNHEALTHY = "starting", "healthy", "unhealthy"
_INTERVAL, _TIMEOUT, _START_INTERVAL = 30_000_000_000, 30_000_000_000, 5_000_000_000
SHORTEST = 1_000_000
"""Nanoseconds; Docker's minimum."""
_LONGEST = (1 << 63) - 1
_RETRIES = 3
_KEPT = 5


class Result(NamedTuple):
    start_ns: int
    end_ns: int
    code: int
    output: str


class Health:
    """The health of a container. The method `judge` records the result of a probe."""

    def __init__(self, check: Healthcheck) -> None:
        self.status = STARTING
        self.streak = 0
        self.results: deque[Result] = deque(maxlen=_KEPT)
        self._check = check
        self._began_ns = time.time_ns()

    @property
    def timeout(self) -> int:
        return _duration_or(self._check.timeout, _TIMEOUT)

    def pause(self, now_ns: int) -> int:
        """Nanoseconds until the next probe."""
        if self._is_young(now_ns):
            return _duration_or(self._check.start_interval, _START_INTERVAL)
        return _duration_or(self._check.interval, _INTERVAL)

    def _is_young(self, now_ns: int) -> bool:
        return self.status == STARTING and max(0, now_ns - self._began_ns) < self._check.start_period

    def judge(self, result: Result) -> None:
        """Record a result. Failures during the start period are ignored until the first success."""
        self.results.append(result)
        if result.code == 0:
            self.streak, self.status = 0, HEALTHY
            return
        if self._is_young(result.start_ns):
            return
        self.streak += 1
        if self.streak >= (self._check.retries if self._check.retries > 0 else _RETRIES):
            self.status = UNHEALTHY


def _duration_or(ns: int, default: int) -> int:
    """The configured duration; the default if the configured duration cannot be used. Durations in a create request are
    validated, but durations in an image are not: they may be too long for a sleep, or so short that the probes occupy the
    whole host."""
    return min(ns, _LONGEST) if ns >= SHORTEST else default


def command(config: ContainerConfig) -> list[str] | None:
    """The command of the health check; None if the container has no health check."""
    check = config.healthcheck
    test: Sequence[str] = (check.test or ()) if check is not UNSET else ()
    if not test or test[0] == "NONE":
        return None
    if test[0] == "CMD-SHELL":
        shell = config.shell if config.shell is not UNSET and config.shell else ["/bin/sh", "-c"]
        return [*shell, *test[1:2]]
    return list(test[1:]) if test[0] == "CMD" else list(test)
