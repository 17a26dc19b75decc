"""`python -m bench.storage`: compares storage drivers of Orlop, in rounds. Prints medians, and ratios to the first driver.

The image has 14,700 files of 355 MB in two layers on top of busybox, and is pulled from a registry on this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache, partial

from tests.registry import Image, busybox, image, layer, push, running

from . import engines, images
from .engines import Engine
from .engines import timed as _timed

__all__ = ["pull", "remove", "start"]

_LAYERS = ((200, 50), (100, 47))  # the number of directories, and the number of files in each
_BYTES = 355 << 20


def _image(number: int = 1) -> Image:
    """Half of each file is random, so the layers compress to about 52 %. Each `number` stands for another image (see
    `application`)."""
    dice = random.Random(number)
    count = sum(directories * files for directories, files in _LAYERS)
    layers = [layer(busybox())]
    for number, (directories, files) in enumerate(_LAYERS):
        content: dict[str, bytes] = {}
        for directory in range(directories):
            for file in range(files):
                size = min(int(dice.expovariate(count / _BYTES)), 4 << 20)
                noise = dice.randbytes(size // 2)
                content[f"data/{number}/{directory}/file-{file}"] = noise + bytes(size - len(noise))
        layers.append(layer(content))
    return image(layers)


def _settled(engine: Engine) -> None:
    """Wait until removed layers are gone from the disk."""
    storage = json.loads(engine.get("/info"))["Driver"]
    trash = f"{os.path.dirname(engine.socket)}/data/{storage}/.orlop/trash"
    while os.listdir(trash):
        time.sleep(0.005)


def _cached() -> float:
    """MB of file content in the page cache."""
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Cached:")) / 1024


@lru_cache(1)
def _pushed(number: int) -> str:
    push(images.registry(), f"files-{number}", "latest", _image(number))
    return f"{images.registry()}/files-{number}"


def pull(engine: Engine) -> float:
    """`pull`, `remove` and `start` are measures of `./dev bench`."""
    name = _pushed(images.number_of(engine, "erofs-pull"))
    os.sync()
    return _timed(partial(engine.docker, "pull", "-q", name))


def remove(engine: Engine) -> float:
    name = _pushed(images.number_of(engine, "erofs-rmi"))
    engine.docker("pull", "-q", name)
    os.sync()
    return _timed(partial(_remove, engine, name))


def _remove(engine: Engine, name: str) -> None:
    engine.docker("rmi", name)
    _settled(engine)


def start(engine: Engine) -> float:
    name = _pushed(0)
    if name.encode() not in engine.get("/images/json"):
        engine.docker("pull", "-q", name)
    return _timed(partial(engine.docker, "run", "--rm", "--network", "none", name, "true"))


@dataclass
class Round:
    """The measures of one round with one driver, in ms, or in MB if the label says so."""

    engine: Engine
    name: str

    def run(self) -> dict[str, float]:
        docker = self.engine.docker
        os.sync()
        found = {"pull": _timed(partial(docker, "pull", "-q", self.name))}
        run = ("run", "--rm", "--network", "none", self.name)
        docker(*run, "true")
        found["docker run --rm true"] = statistics.median(_timed(partial(docker, *run, "true")) for _ in range(7))
        with open("/proc/sys/vm/drop_caches", "w") as file:
            file.write("3")
        read = ("sh", "-c", "cat /data/*/*/* >/dev/null")
        found["read all files, from disk"] = _timed(partial(docker, *run, *read))
        found["read all files again, in a new container"] = _timed(partial(docker, *run, *read))
        docker("run", "-d", "--name", "first", "--network", "none", self.name, "sh", "-c", f"{read[2]}; sleep 600")
        docker("exec", "first", *read)
        before = _cached()
        docker("run", "-d", "--name", "second", "--network", "none", self.name, "sleep", "600")
        docker("exec", "second", *read)
        found["page cache of a second container (MB)"] = _cached() - before
        docker("rm", "-f", "first", "second")
        found["docker diff"] = self._diff()
        found["rmi"] = _timed(partial(docker, "rmi", self.name))
        found["rmi, until the disk is free"] = found["rmi"] + _timed(partial(_settled, self.engine))
        return {label: value * (1 if "MB" in label else 1000) for label, value in found.items()}

    def _diff(self) -> float:
        change = "for d in /data/0/*; do echo > $d/new; done"
        self.engine.docker("run", "--name", "changed", "--network", "none", self.name, "sh", "-c", change)
        try:
            return _timed(partial(self.engine.docker, "diff", "changed"))
        finally:
            self.engine.docker("rm", "changed")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.storage", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "drivers", nargs="*", default=["overlay2", "erofs"], help="storage drivers; the others are compared with the first"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--opt", action="append", default=[], help="an entry of storage-opts, such as erofs.mode=full")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="orlop-bench-") as top, ExitStack() as stack:
        os.chmod(top, 0o711)
        stack.enter_context(engines.in_memory(f"{top}/run"))
        registry = stack.enter_context(running())
        push(registry.host, "bench", "latest", _image())
        rounds = []
        for storage in asked.drivers:
            config = {"storage-driver": storage, "storage-opts": [opt for opt in asked.opt if opt.startswith(f"{storage}.")]}
            engine = stack.enter_context(engines.orlop(top, name=storage, config=config))
            engine.start()
            rounds.append(Round(engine, f"{registry.host}/bench:latest"))
        found: list[list[dict[str, float]]] = [[] for _ in rounds]
        for _ in range(asked.rounds):
            for each, results in zip(rounds, found, strict=True):
                results.append(each.run())
        for label in found[0][0]:
            medians = [statistics.median(result[label] for result in results) for results in found]
            ratios = " ".join(f"{value / medians[0]:.2f}" for value in medians[1:])
            print(f"{label:42}" + "".join(f"{value:10.0f}" for value in medians) + f"   ratio {ratios}", flush=True)
        print(json.dumps(dict(zip(asked.drivers, found, strict=True))), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
