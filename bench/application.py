"""An image like that of an application in a scripting language: 8,600 files of 187 MB in three layers, mostly small files.

Each `number` is another image of this kind, the same every time. Measures use a new one in each round instead of removing
the last: ext4 passes over inodes that were deleted in the last minutes, one by one, for each file that it creates.
"""

from __future__ import annotations

import os
import random
import tempfile
from functools import lru_cache
from typing import IO

from tests.registry import Image, docker_archive, image, layer
from tests.registry.build import Blob, Content

__all__ = ["archive", "compressed", "name", "variants"]

_LAYERS = (("usr/lib", 6000, 120_000_000), ("usr/share", 2000, 55_000_000), ("opt", 600, 12_000_000))


def name(number: int) -> str:
    return f"bench/application-{number}:latest"


def _layers(number: int, compression: str) -> list[Blob]:
    chance = random.Random(number)
    return [_layer(chance, *shape, compression) for shape in _LAYERS]


def _layer(chance: random.Random, directory: str, files: int, size: int, compression: str) -> Blob:
    weights = [int(chance.paretovariate(1.1) * 500) for _ in range(files)]
    members: dict[str, Content] = {}
    for number, weight in enumerate(weights):
        where = f"{directory}/d{number // 60}"
        members[f"{where}/"] = None
        members[f"{where}/file{number}"] = _text(chance, max(1, weight * size // sum(weights)))
    return layer(members, compression=compression)


def _text(chance: random.Random, size: int) -> bytes:
    """It compresses like program text: to about a third."""
    block = chance.randbytes(min(size, 3000)).hex().encode() + b"\n"
    return (block * (size // len(block) + 1))[:size]


@lru_cache(1)
def _archive(number: int) -> IO[bytes]:
    file = tempfile.TemporaryFile()  # noqa: SIM115 - closed when it leaves the cache
    file.write(docker_archive({name(number): image(_layers(number, "none"))}))
    file.flush()
    os.fsync(file.fileno())
    return file


def archive(number: int) -> IO[bytes]:
    """The image as `docker save` wrote it before OCI layouts, to be read from its beginning."""
    file = _archive(number)
    file.seek(0)
    return file


def compressed(number: int) -> Image:
    """The image with its layers in gzip, as a registry has it."""
    return image(_layers(number, "gzip"))


def variants(number: int, count: int) -> list[Image]:
    """Images that share the layers of `compressed`, each with a layer of its own of 2 MB in 100 files."""
    base, chance = _layers(number, "gzip"), random.Random(-number)
    return [image([*base, _layer(chance, f"srv/{number}", 100, 2_000_000, "gzip")]) for number in range(count)]
