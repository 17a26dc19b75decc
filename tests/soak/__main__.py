"""`./dev soak`: the long form. Prints resources before and after, and memory growth; exits with 1 on any leak."""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress

from tests.integration.engine import Engine

from .census import groups
from .run import Report, Size, soak

_SLOPE = 0.5
"""KiB per step that count as a leak. The daemon remembers the last thousand ended execs, more than a default run makes."""

_GROWTH = 25 << 10
"""KiB by which the daemon may have grown after all work and a minute of rest."""

_ENOUGH = 500
"""Steps that a regression line needs to be meaningful: an allocator takes megabytes at a time."""


def arguments() -> Size:
    parser = argparse.ArgumentParser(prog="./dev soak", description=__doc__)
    parser.add_argument(
        "--cycles", type=int, default=1000, help="containers to create, start, wait for and remove (default 1000)"
    )
    parser.add_argument("--execs", type=int, default=500, help="attached execs to run (default 500)")
    parser.add_argument(
        "--drops", type=int, default=1200, help="connections to break off, of twelve kinds in turn (default 1200)"
    )
    parser.add_argument(
        "--rare", type=int, default=20, help="number of restarts, of failures, and of cancelled pulls (default 20)"
    )
    parser.add_argument("--transfers", type=int, default=50, help="number of pushes, of saves, and of loads (default 50)")
    parser.add_argument("--large", type=int, default=7200, help="requests and answers of several megabytes (default 7200)")
    parser.add_argument(
        "--builds", type=int, default=40, help="number of complete builds, and of interrupted builds (default 40)"
    )
    asked = parser.parse_args()
    return Size(asked.cycles, asked.execs, asked.drops, asked.rare, asked.transfers, asked.large, asked.builds, long=True)


def tell(report: Report) -> bool:
    print(f"\n{'held':24}{'before':>8}{'after':>8}")
    after = dict(groups(report.after))
    for kind, count in groups(report.before):
        print(f"{kind:24}{count:8}{after[kind]:8}")
    steady = True
    print(f"\n{'memory, KiB':12}{'':10}{'Rss':>18}{'Pss':>18}{'Private':>18}{'a step: Rss':>14}{'Pss':>8}{'Private':>9}")
    for name, times, seconds, growths in report.phases:
        print(f"{name}: {times} in {seconds:.0f} s")
        for growth in growths:
            ends = [f"{first} -> {last}" for first, last in map(growth.ends, ("Rss", "Pss", "Private"))]
            slopes = [growth.per_step(measure) for measure in ("Rss", "Pss", "Private")]
            grows = times >= _ENOUGH and slopes[0] >= _SLOPE
            steady = steady and not grows
            print(f"{'':12}{growth.name:10}{ends[0]:>18}{ends[1]:>18}{ends[2]:>18}", end="")
            print(f"{slopes[0]:14.3f}{slopes[1]:8.3f}{slopes[2]:9.3f}" + ("  GROWS" if grows else ""))
    print("\nleaks:" if report.leaks else "\nno leak")
    for key, (first, last) in report.leaks.items():
        print(f"  {key}: {first} -> {last}")
    first, last = report.resident
    grown = last - first
    print(f"\nresident: {first} KiB at the start, {last} KiB after a minute of rest" + "  TOO MUCH" * (grown > _GROWTH))
    return steady and not report.leaks and grown <= _GROWTH


def main() -> int:
    size = arguments()
    engine = Engine({"shutdown-timeout": 3})
    try:
        engine.start()
        engine.load()
        good = tell(soak(engine, size, lambda text: print(f"... {text}", flush=True)))
    except BaseException:
        with suppress(OSError):
            print(engine.log()[-5000:], file=sys.stderr)
        raise
    finally:
        left = engine.close()
    for line in left:
        print(f"left on the host: {line}")
    return 0 if good and not left else 1


if __name__ == "__main__":
    sys.exit(main())
