"""One soak run: a warm-up, a census, the work with samples of memory, and a second census once everything has settled."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import cycle

from tests.integration.engine import Engine

from . import census, work
from .builds import BUILDS, Builds
from .census import Census
from .memory import Growth, sample
from .transfers import TRANSFERS, Transfers

__all__ = ["Report", "Size", "soak"]

_SETTLE = 30.0
"""Seconds: idle threads exist for ten seconds, a monitor prepared for a start exists for one second."""

_REST = 60.0
"""Seconds before memory is measured: the idle daemon returns memory to the system."""


@dataclass(frozen=True)
class Size:
    cycles: int
    execs: int
    drops: int
    rare: int
    transfers: int = 0
    large: int = 0
    builds: int = 0
    warm_up: int = 5
    long: bool = False


@dataclass
class Report:
    before: Census
    after: Census = field(default_factory=Census)
    phases: list[tuple[str, int, float, list[Growth]]] = field(default_factory=list)
    resident: tuple[int, int] = (0, 0)
    """KiB of the daemon at its start, and after all work and a rest."""

    @property
    def leaks(self) -> dict[str, tuple[int, int]]:
        return census.grown(self.before, self.after)


def _take(engine: Engine, size: Size) -> Census:
    """Take a census. The short form does not count threads: an idle thread exists for ten seconds, and the short form does
    not wait so long."""
    found = census.take(engine)
    if not size.long:
        del found["daemon thread"]
    return found


def _settled(engine: Engine, size: Size, before: Census) -> Census:
    """The census once it shows no growth, or after `_SETTLE` seconds."""
    end = time.monotonic() + _SETTLE
    while census.grown(before, now := _take(engine, size)) and time.monotonic() < end:
        time.sleep(0.2)
    return now


def _phase(report: Report, engine: Engine, name: str, times: int, step: Callable[[], None]) -> None:
    assert engine.process is not None
    pids = {"orlopd": engine.process.pid, "zygote": engine.zygote, "monitor": engine.monitor("silent")}
    growths = [Growth(label, pid) for label, pid in pids.items()]
    every = max(1, times // 60)
    began = time.monotonic()
    for number in range(times):
        if number % every == 0:
            for growth in growths:
                growth.take(number)
        step()
    for growth in growths:
        growth.take(times)
    report.phases.append((name, times, time.monotonic() - began, growths))


def soak(engine: Engine, size: Size, say: Callable[[str], None] = lambda text: None) -> Report:
    """Run the work on a started daemon that has the busybox image. Its containers stay until the caller closes the
    daemon."""
    assert engine.process is not None
    daemon = engine.process.pid
    resident = sample(daemon)["Rss"]
    with ExitStack() as stack:
        scene = work.Scene(engine, stack)
        say("warming up")
        for _ in range(size.warm_up):
            scene.cycle()
            scene.exec()
        for kind in (*work.DROPS, *work.RARE):
            kind(scene)
        engine.api("GET", "/info")  # makes the directory of each installed runtime
        transfers = Transfers(scene, stack)
        for transfer in TRANSFERS if size.transfers else ():
            transfer(transfers)
        builds = Builds(scene)
        for build in BUILDS * 2 if size.builds else ():
            build(builds)
        if size.long:
            scene.fill_history()
            time.sleep(_SETTLE)
        report = Report(_take(engine, size))
        say(f"{size.cycles} cycles")
        _phase(report, engine, "cycles", size.cycles, scene.cycle)
        say(f"{size.execs} execs")
        _phase(report, engine, "execs", size.execs, scene.exec)
        say(f"{size.drops} attachments, logs, events, waits, execs and starts dropped")
        kinds = cycle(work.DROPS)
        _phase(report, engine, "dropped", size.drops, lambda: next(kinds)(scene))
        say(f"{size.rare} of each: {', '.join(kind.__name__ for kind in work.RARE)}")
        rare = cycle(work.RARE)
        _phase(report, engine, "failing", size.rare * len(work.RARE), lambda: next(rare)(scene))
        say(f"{size.transfers} of each: {', '.join(kind.__name__ for kind in TRANSFERS)}")
        each = cycle(TRANSFERS)
        _phase(report, engine, "transfers", size.transfers * len(TRANSFERS), lambda: next(each)(transfers))
        say(f"{size.builds} of each: {', '.join(kind.__name__ for kind in BUILDS)}")
        builder = cycle(BUILDS)
        _phase(report, engine, "builds", size.builds * len(BUILDS), lambda: next(builder)(builds))
        say(f"{size.large} large requests and answers, {work.AT_ONCE} at once")
        _phase(report, engine, "large", size.large // work.AT_ONCE, scene.large)
        say("settling")
        report.after = _settled(engine, size, report.before)
        if size.long:
            time.sleep(_REST)
        report.resident = resident, sample(daemon)["Rss"]
        return report
