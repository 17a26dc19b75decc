"""`./dev mutation`: change guards one at a time, and print the changes that no test notices."""

from __future__ import annotations

import argparse
import ast
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import hypothesis  # noqa: F401 - imported before the forks, which then need not
import msgspec  # noqa: F401
import trio  # noqa: F401

from .areas import AREAS, Area
from .mutants import Mutant, mutants
from .runner import Coverage, lines_reached, passes, source_of

WANTED = 0.9
RECORD = Path(__file__).with_name("results.txt")
_HEADING = "# Changes of guards that tests notice, and those that none does. Written by ./dev mutation --record."


@dataclass(frozen=True)
class Trial:
    """A mutant, and the files of tests that reach its lines."""

    module: str
    mutant: Mutant
    tree: ast.Module
    tests: tuple[str, ...]
    seconds: float

    def survives(self) -> bool:
        return not self.tests or passes(self.module, self.mutant.tree(self.tree), self.tests, self.seconds)


def _test_files(area: Area) -> Iterator[str]:
    for path in map(Path, area.tests):
        yield from map(str, sorted(path.rglob("test_*.py")) if path.is_dir() else [path])


def trials(area: Area, only: str) -> list[Trial]:
    sources = {module: source_of(module) for module in area.modules}
    reach = {test: lines_reached(test, list(sources.values())) for test in _test_files(area)}
    found: list[Trial] = []
    for module, path in sources.items():
        tree = ast.parse(Path(path).read_text())
        found.extend(_trial(module, path, tree, mutant, reach) for mutant in mutants(module, tree) if only in mutant.name)
    return found


def _trial(module: str, path: str, tree: ast.Module, mutant: Mutant, reach: dict[str, Coverage]) -> Trial:
    lines = set(range(mutant.first, mutant.last + 1))
    tests = sorted(file for file, seen in reach.items() if lines & seen.lines.get(path, frozenset()))
    tests.sort(key=lambda file: reach[file].seconds)
    return Trial(module, mutant, tree, tuple(tests), sum(reach[file].seconds for file in tests))


@dataclass(frozen=True)
class Result:
    """What became of the mutants of one area."""

    area: str
    tried: int
    survivors: tuple[str, ...]

    @property
    def killed(self) -> float:
        return 1 - len(self.survivors) / self.tried if self.tried else 1.0

    def __str__(self) -> str:
        head = f"{self.area}: {self.tried - len(self.survivors)} of {self.tried} noticed ({self.killed:.1%})"
        return "\n".join([head, *(f"    {name}" for name in self.survivors)])


def run(name: str, only: str, jobs: int) -> Result:
    tried = trials(AREAS[name], only)
    with ThreadPoolExecutor(jobs) as pool:
        survived = pool.map(Trial.survives, tried)
        return Result(
            name, len(tried), tuple(trial.mutant.name for trial, lives in zip(tried, survived, strict=True) if lives)
        )


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev mutation", description=__doc__, allow_abbrev=False)
    parser.add_argument("areas", nargs="*", metavar="AREA", help=f"areas to try (default: all): {', '.join(AREAS)}")
    parser.add_argument("--only", default="", metavar="TEXT", help="only changes whose name contains TEXT")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="changes at a time (default: one per processor)")
    parser.add_argument(
        "--record", action="store_true", help="write the results of these areas to tests/mutation/results.txt"
    )
    options = parser.parse_args()
    if unknown := set(options.areas) - AREAS.keys():
        parser.error(f"unknown area {', '.join(sorted(unknown))}; there are: {', '.join(AREAS)}")
    if options.record and options.only:
        parser.error("--record needs whole areas, without --only")
    results = []
    for name in options.areas or AREAS:
        results.append(run(name, options.only, options.jobs))
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
