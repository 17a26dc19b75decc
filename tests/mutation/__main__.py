"""`./dev mutation`: change guards one at a time, and print the changes that no test notices."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .areas import AREAS
from .runner import try_mutants

WANTED = 0.9
RECORD = Path(__file__).with_name("results.txt")
_HEADING = "# Changes of guards that tests notice, and those that none does. Written by ./dev mutation --record."


@dataclass(frozen=True)
class Result:
    """The results of the mutants of one area."""

    area: str
    tried: int
    survivors: tuple[str, ...]

    @property
    def killed(self) -> float:
        return 1 - len(self.survivors) / self.tried if self.tried else 1.0

    def __str__(self) -> str:
        head = f"{self.area}: {self.tried - len(self.survivors)} of {self.tried} noticed ({self.killed:.1%})"
        return "\n".join([head, *(f"    {name}" for name in self.survivors)])


def run(name: str, only: Sequence[str], among: frozenset[str] | None, jobs: int, *, verbose: bool) -> Result:
    def wanted(mutant: str) -> bool:
        return (among is None or mutant in among) and (not only or any(text in mutant for text in only))

    outcome = try_mutants(AREAS[name], wanted, jobs)
    for test in outcome.failing:
        print(f"left out, because it fails without a change: {test}", file=sys.stderr)
    if verbose:
        for mutant, test in outcome.noticed.items():
            print(f"noticed by {test or 'the time limit'}: {mutant}")
    return Result(name, len(outcome.survivors) + len(outcome.noticed), outcome.survivors)


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev mutation", description=__doc__, allow_abbrev=False)
    parser.add_argument("areas", nargs="*", metavar="AREA", help=f"areas to try (default: all): {', '.join(AREAS)}")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="TEXT",
        help="try only changes whose name contains TEXT; may be repeated",
    )
    parser.add_argument(
        "--again",
        type=Path,
        metavar="FILE",
        help="try only changes with which no test failed in an earlier run; FILE is the output of this run",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=os.cpu_count(),
        help="number of changes to try at the same time (default: the number of processors)",
    )
    parser.add_argument("--verbose", action="store_true", help="also print which test failed with each change")
    parser.add_argument(
        "--record", action="store_true", help="write the results of these areas to tests/mutation/results.txt"
    )
    options = parser.parse_args()
    if unknown := set(options.areas) - AREAS.keys():
        parser.error(f"unknown area {', '.join(sorted(unknown))}; there are: {', '.join(AREAS)}")
    if options.record and (options.only or options.again):
        parser.error("--record cannot be used with --only or --again")
    among = frozenset(map(str.strip, options.again.read_text().splitlines())) if options.again else None
    results = []
    for name in options.areas or AREAS:
        results.append(run(name, options.only, among, options.jobs, verbose=options.verbose))
        print(results[-1], flush=True)
        if options.record:
            record(results[-1])
    return int(any(result.killed < WANTED for result in results))


def recorded() -> dict[str, str]:
    """The recorded results: the text of each area by its name."""
    sections = RECORD.read_text().split("\n\n")[1:] if RECORD.exists() else []
    return {section.partition(":")[0]: section.strip() for section in sections}


def record(result: Result) -> None:
    sections = {**recorded(), result.area: str(result)}
    RECORD.write_text("\n\n".join([_HEADING, *(sections[name] for name in AREAS if name in sections)]) + "\n")


if __name__ == "__main__":
    sys.exit(main())
