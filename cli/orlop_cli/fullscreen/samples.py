"""Figures of a container from two answers of `GET /containers/{id}/stats?one-shot=1`.

With one-shot, the daemon reads the counters once and answers immediately. The client computes the rates from the differences
between two answers.
"""

from __future__ import annotations

from typing import NamedTuple

from orlop_cli.tables.stats import figures

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Counters", "Sample", "counters", "sample"]


class Counters(NamedTuple):
    """An answer, and the time in seconds at which the client received the answer."""

    answer: dict[str, Any]
    at: float


class Sample(NamedTuple):
    """Figures to display. A figure is None if it needs an earlier answer, or if the daemon does not know it."""

    memory: int
    limit: int
    pids: int
    cpu: float | None = None  # percent of one core
    received: float | None = None  # bytes per second
    sent: float | None = None
    throttled: float | None = None  # percent of the scheduler's periods in which the container waited for its CPU quota

    @property
    def share(self) -> float | None:
        """Memory in percent of the limit."""
        return self.memory / self.limit * 100 if self.limit else None


def counters(answer: dict[str, Any], at: float) -> Counters | None:
    """The counters in an answer. None if the container does not run; the answer is then empty, with the zero time."""
    return None if str(answer.get("read", "0001-")).startswith("0001-") else Counters(answer, at)


def sample(before: Counters | None, now: Counters) -> Sample:
    """The figures of an answer. `before` is an earlier answer for the same run of the container."""
    found = figures({**now.answer, "precpu_stats": (before.answer if before else {}).get("cpu_stats") or {}})
    first = Sample(found.memory, found.limit, found.pids)
    if before is None or now.at <= before.at:
        return first
    old = figures(before.answer)
    if found.received < old.received or found.sent < old.sent:
        return first  # the container has been restarted, and its counters start at zero
    seconds = now.at - before.at
    networks = "networks" in now.answer
    return first._replace(
        cpu=found.cpu,
        received=(found.received - old.received) / seconds if networks else None,
        sent=(found.sent - old.sent) / seconds if networks else None,
        throttled=_throttled(before.answer, now.answer),
    )


def _throttled(before: dict[str, Any], now: dict[str, Any]) -> float | None:
    old, new = ((one.get("cpu_stats") or {}).get("throttling_data") or {} for one in (before, now))
    periods = (new.get("periods") or 0) - (old.get("periods") or 0)
    if periods <= 0:
        return None
    return min(100.0, max(0, (new.get("throttled_periods") or 0) - (old.get("throttled_periods") or 0)) / periods * 100)
