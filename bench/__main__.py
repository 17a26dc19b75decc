"""Runs the measures in rounds. In each round, each engine is measured in turn. Prints medians and ratios; most ratios
compare Orlop with dockerd."""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from tests.registry import busybox, docker_archive, image, layer

from . import engines
from .measures import ALL, IMAGE, Measure

_OTHER = "orlop-other"  # of another checkout
_MORE = (_OTHER, "orlop-crun", "podman")
_SCALE = {"ms": 1e3, "us": 1e6, "MB": 1, "x": 1}


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__)
    parser.add_argument("measures", nargs="*", help=f"measures to run (default: all): {' '.join(m.key for m in ALL)}")
    parser.add_argument("--crun", action="store_true", help="also measure Orlop with crun")
    parser.add_argument("--podman", action="store_true", help="also measure podman")
    parser.add_argument(
        "--against", metavar="CHECKOUT", help="also measure Orlop from this checkout, in which ./dev setup has run"
    )
    parser.add_argument(
        "--in-memory", action="store_true", help="keep data roots in memory, so that the disk has no influence"
    )
    parser.add_argument("--only-orlop", action="store_true", help="measure only Orlop, for work on one measure")
    parser.add_argument("--check", action="store_true", help="exit with code 1 if a value is over its bound")
    asked = parser.parse_args(argv)
    if unknown := set(asked.measures) - {one.key for one in ALL}:
        parser.error(f"no such measure: {' '.join(sorted(unknown))}")
    if asked.check and asked.only_orlop:
        parser.error("--check cannot be used with --only-orlop: most bounds are ratios to dockerd's time")
    return asked


def load(engine: engines.Engine, archive: str) -> None:
    with open(archive, "rb") as file:
        engine.docker("load", stdin=file)


def measure(measure: Measure, fleet: list[engines.Engine]) -> dict[str, float]:
    found: dict[str, list[float]] = {engine.name: [] for engine in fleet}
    for _ in range(measure.rounds):
        for engine in fleet:
            found[engine.name].append(measure.run(engine))
    return {name: statistics.median(values) for name, values in found.items()}


def report(one: Measure, found: dict[str, float]) -> bool:
    """Print a row. Returns whether Orlop is within its bound."""
    scale, first, ours = _SCALE[one.unit], one.engines[0], found[one.engines[-1]]
    cells = [f"{name} {value * scale:.{2 if one.unit == 'x' else 1}f}" for name, value in found.items()]
    ratio = ours / found[first] if first in found and first != one.engines[-1] else 0.0
    held = ours if one.unit in ("MB", "x") else ratio
    verdict = f"ratio {ratio:.2f}" if ratio else ""
    if _OTHER in found:
        verdict += f", to the other checkout {ours / found[_OTHER]:.2f}"
    if one.bound < math.inf:
        verdict += f" (<= {one.bound}{' MB' if one.unit == 'MB' else ''})" + ("" if held <= one.bound else "  OVER")
    print(f"{one.label:48} {one.unit:3} {'  '.join(cells):60} {verdict}", flush=True)
    return held <= one.bound


def engines_of(one: Measure, fleet: Mapping[str, engines.Engine]) -> list[engines.Engine]:
    """The engines that the measure compares, in order. A comparison with dockerd also includes the engines that command-line
    options have added."""
    more = [name for name in fleet if name in _MORE] if one.engines[0] == "dockerd" else []
    return [fleet[name] for name in (*one.engines, *more) if name in fleet]


def main() -> int:
    asked = arguments()
    chosen = [one for one in ALL if not asked.measures or one.key in asked.measures]
    place = "/dev/shm" if asked.in_memory else None
    with tempfile.TemporaryDirectory(prefix="orlop-bench-", dir=place) as top, ExitStack() as stack:
        os.chmod(top, 0o711)
        stack.enter_context(engines.in_memory(f"{top}/run"))
        archive = f"{top}/busybox.tar"
        with open(archive, "wb") as file:
            file.write(docker_archive({IMAGE: image([layer(busybox())])}))
        wanted = {name for one in chosen for name in one.engines}
        found = []
        if not asked.only_orlop and "dockerd" in wanted:
            found.append(stack.enter_context(engines.dockerd(top)))
        found.append(stack.enter_context(engines.orlop(top)))
        if "erofs" in wanted:
            found.append(stack.enter_context(engines.orlop(top, name="erofs", config={"storage-driver": "erofs"})))
        if asked.against:
            programs = os.path.join(asked.against, ".venv/bin")
            found.append(stack.enter_context(engines.orlop(top, name=_OTHER, programs=programs)))
        if asked.crun:
            found.append(stack.enter_context(engines.orlop(top, "crun", "orlop-crun")))
        if asked.podman:
            found.append(stack.enter_context(engines.podman(top)))
        for engine in found:
            engine.start()
            load(engine, archive)
        fleet = {engine.name: engine for engine in found}
        good = [report(one, measure(one, engines_of(one, fleet))) for one in chosen]
    return 0 if all(good) or not asked.check else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(f"bench: {error}")
