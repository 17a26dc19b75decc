"""Metric families and their encodings for Prometheus. This module does no I/O.

There are two formats: the text exposition format 0.0.4, and OpenMetrics 1.0.0, in which the names of counters, the bucket
bounds and the end of the text are different. A scraper chooses the format in `Accept`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

__all__ = ["BUCKETS", "OPENMETRICS", "TEXT", "Family", "Histogram", "Values", "expose", "wants_openmetrics"]

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds in seconds: Prometheus' defaults, which dockerd uses for all of its histograms."""

Labels = tuple[str, ...]
Read = Callable[[], float | Mapping[Labels, float]]


class Sample(NamedTuple):
    suffix: str
    labels: tuple[tuple[str, str], ...]
    value: float


class Family(ABC):
    """A metric: its name, help text and samples. `kind` is "counter", "gauge" or "histogram"; names of counters end with
    "_total"."""

    def __init__(self, kind: str, name: str, help: str, labels: Labels = ()) -> None:
        self.kind, self.name, self.help, self.labels = kind, name, help, labels

    @abstractmethod
    def samples(self) -> Iterator[Sample]:
        """The current samples, with bucket bounds as the text format writes them."""

    def _pairs(self, values: Labels) -> tuple[tuple[str, str], ...]:
        return tuple(zip(self.labels, values, strict=True))


class Values(Family):
    """A value that is counted elsewhere and read at each scrape. It is one number, or one number for each tuple of label
    values."""

    def __init__(self, kind: str, name: str, help: str, read: Read, labels: Labels = ()) -> None:
        super().__init__(kind, name, help, labels)
        self._read = read

    def samples(self) -> Iterator[Sample]:
        found = self._read()
        for values, value in found.items() if isinstance(found, Mapping) else [((), found)]:
            yield Sample("", self._pairs(values), value)


class Histogram(Family):
    """A distribution of durations, in seconds. `known` are label values that are shown even before a duration was observed
    for them."""

    def __init__(
        self,
        name: str,
        help: str,
        labels: Labels = (),
        known: Iterable[Labels] = (),
        buckets: tuple[float, ...] = BUCKETS,
    ) -> None:
        super().__init__("histogram", name, help, labels)
        self._buckets = buckets
        self._counts: dict[Labels, list[int]] = {}
        self._sums: dict[Labels, float] = {}
        for values in known if labels else [()]:
            self._begin(values)

    def _begin(self, values: Labels) -> list[int]:
        self._sums[values] = 0.0
        return self._counts.setdefault(values, [0] * (len(self._buckets) + 1))

    def observe(self, seconds: float, *values: str) -> None:
        """Add a duration. For each tuple of values, always call this method from the same thread."""
        counts = self._counts.get(values) or self._begin(values)
        counts[bisect_left(self._buckets, seconds)] += 1
        self._sums[values] += seconds

    def samples(self) -> Iterator[Sample]:
        for values, counts in list(self._counts.items()):
            pairs, total = self._pairs(values), 0
            for bound, count in zip((*self._buckets, math.inf), counts, strict=True):
                total += count
                yield Sample("_bucket", (*pairs, ("le", _bound(bound))), total)
            yield Sample("_sum", pairs, self._sums[values])
            yield Sample("_count", pairs, total)


def _bound(value: float) -> str:
    return "+Inf" if value == math.inf else f"{value:g}"


def _canonical(bound: str) -> str:
    """The bound in float notation, which OpenMetrics requires because queries compare labels as text."""
    return bound if bound == "+Inf" else repr(float(bound))


def _number(value: float) -> str:
    if math.isinf(value) or math.isnan(value):
        return {math.inf: "+Inf", -math.inf: "-Inf"}.get(value, "NaN")
    return str(int(value)) if value == int(value) else repr(float(value))


_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
_HELP_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n"})


def _line(name: str, sample: Sample, openmetrics: bool) -> str:
    labels = ",".join(
        f'{key}="{_canonical(value) if openmetrics and key == "le" else value.translate(_ESCAPES)}"'
        for key, value in sample.labels
    )
    return f"{name}{sample.suffix}{'{' + labels + '}' if labels else ''} {_number(sample.value)}\n"


def expose(families: Iterable[Family], *, openmetrics: bool) -> bytes:
    """All families as text, ordered by name."""
    lines: list[str] = []
    for family in sorted(families, key=lambda family: family.name):
        # In OpenMetrics, the name of a counter's family has no suffix, but the name of its sample has the suffix
        shown = family.name.removesuffix("_total") if openmetrics and family.kind == "counter" else family.name
        escapes = _ESCAPES if openmetrics else _HELP_ESCAPES
        lines.append(f"# HELP {shown} {family.help.translate(escapes)}\n# TYPE {shown} {family.kind}\n")
        lines.extend(_line(family.name, sample, openmetrics) for sample in family.samples())
    if openmetrics:
        lines.append("# EOF\n")
    return "".join(lines).encode("utf-8", "replace")


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.strip().partition("=")
        if name == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def wants_openmetrics(accept: str) -> bool:
    """Whether `Accept` prefers OpenMetrics to plain text; the default is text."""
    best = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    for item in accept.split(","):
        media, *parameters = item.split(";")
        if (media := media.strip().lower()) in best:
            best[media] = max(best[media], _quality(parameters))
    return best["application/openmetrics-text"] > 0 and best["application/openmetrics-text"] >= best["text/plain"]
