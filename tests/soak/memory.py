"""Memory growth over the cycles of work: samples of a process's memory, and a regression line through the samples.

Growth is measured by RSS, because PSS and private memory also change when processes that share pages start and exit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Growth", "sample"]

_WARM_UP = 0.5
"""The share of samples to skip. Caches fill, and a monitor keeps the deadline of an ended command for two minutes."""


def sample(pid: int) -> dict[str, int]:
    """Rss, Pss and Private of a process, in KiB."""
    fields: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split(":")
        fields[name] = int(value.split()[0])
    return {"Rss": fields["Rss"], "Pss": fields["Pss"], "Private": fields["Private_Clean"] + fields["Private_Dirty"]}


def slope(points: Sequence[tuple[float, float]]) -> float:
    """The slope of the least squares line."""
    n = len(points)
    if n < 3:
        return 0.0
    mean_x, mean_y = sum(x for x, _ in points) / n, sum(y for _, y in points) / n
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


@dataclass
class Growth:
    """The memory samples of one process during one kind of work."""

    name: str
    pid: int
    points: list[tuple[int, dict[str, int]]] = field(default_factory=list)

    def take(self, step: int) -> None:
        self.points.append((step, sample(self.pid)))

    def per_step(self, measure: str) -> float:
        """Growth in KiB per step, after the warm-up."""
        warm = self.points[int(len(self.points) * _WARM_UP) :]
        return slope([(step, values[measure]) for step, values in warm])

    def ends(self, measure: str) -> tuple[int, int]:
        return self.points[0][1][measure], self.points[-1][1][measure]
