"""Counters for `/metrics` and `/debug/vars`. The engine always counts, because the cost is negligible."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Counters"]


class Counters:
    """The counters of an engine since its start. The keys of actions are (object, action), such as ("container",
    "start")."""

    def __init__(self) -> None:
        self.health_checks = 0
        self.health_checks_failed = 0
        self.actions: Counter[tuple[str, ...]] = Counter()
        self.log_lost: Counter[tuple[str, ...]] = Counter()
        """Lost log entries by (log driver,)."""
        self.failures: Counter[tuple[str, ...]] = Counter()
        self.observe: Callable[[str, str, float], None] | None = None
        """If set, called with object, action and duration of each successful action."""

    def checked(self, healthy: bool) -> None:
        """Count a health check."""
        self.health_checks += 1
        self.health_checks_failed += not healthy

    @contextmanager
    def timed(self, kind: str, action: str) -> Iterator[None]:
        """Count the `with` block as one action. If the block raises an error, it is counted as a failure. If the block is
        cancelled, it is not counted."""
        began = time.perf_counter()
        try:
            yield
        except Exception:
            self.failures[kind, action] += 1
            raise
        self.actions[kind, action] += 1
        if self.observe:
            self.observe(kind, action, time.perf_counter() - began)
