"""An image like that of an application in a scripting language: 8,600 files of 187 MB in three layers, mostly small files.
The same every time."""

from __future__ import annotations

import os
import random
import tempfile
from functools import cache
from typing import IO

from tests.registry import docker_archive, image, layer
from tests.registry.build import Blob, Content

__all__ = ["APPLICATION", "archive"]

APPLICATION = "bench/application:latest"
_LAYERS = (("usr/lib", 6000, 120_000_000), ("usr/share", 2000, 55_000_000), ("opt", 600, 12_000_000))


def _layer(chance: random.Random, directory: str, files: int, size: int) -> Blob:
    weights = [int(chance.paretovariate(1.1) * 500) for _ in range(files)]
    members: dict[str, Content] = {}
    for number, weight in enumerate(weights):
        where = f"{directory}/d{number // 60}"
        members[f"{where}/"] = None
        members[f"{where}/file{number}"] = _text(chance, max(1, weight * size // sum(weights)))
    return layer(members, compression="none")


def _text(chance: random.Random, size: int) -> bytes:
    """It compresses like program text: to about a third."""
    block = chance.randbytes(min(size, 3000)).hex().encode() + b"\n"
    return (block * (size // len(block) + 1))[:size]


@cache
def _archive() -> IO[bytes]:
    chance = random.Random(5)
    file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
    file.write(docker_archive({APPLICATION: image([_layer(chance, *shape) for shape in _LAYERS])}))
    file.flush()
    os.fsync(file.fileno())
    return file


def archive() -> IO[bytes]:
    """The image as `docker save` wrote it before OCI layouts, to be read from its beginning."""
    file = _archive()
    file.seek(0)
    return file
