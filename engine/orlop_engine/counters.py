"""What is counted all the time, because counting costs nothing: for `/metrics` and for `/debug/vars`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Counters"]


class Counters:
    """An engine's numbers since it started. Actions are keyed by what was acted on and how: ("container", "start")."""

    def __init__(self) -> None:
        self.health_checks = 0
        self.health_checks_failed = 0
        self.actions: Counter[tuple[str, ...]] = Counter()
        self.failures: Counter[tuple[str, ...]] = Counter()
        self.observe: Callable[[str, str, float], None] | None = None
        """Told how long each action took that succeeded, if anybody wants to know."""

    def checked(self, healthy: bool) -> None:
        """A health check was made."""
        self.health_checks += 1
        self.health_checks_failed += not healthy

    @contextmanager
    def timed(self, kind: str, action: str) -> Iterator[None]:
        """Count the block as one action; by an exception it has failed. Cancelled, it is neither."""
        began = time.perf_counter()
        try:
            yield
        except Exception:
            self.failures[kind, action] += 1
            raise
        self.actions[kind, action] += 1
        if self.observe:
            self.observe(kind, action, time.perf_counter() - began)
