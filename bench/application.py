"""An image like the image of an application in a scripting language: three layers with 8,600 mostly small files, 187 MB
together.

Each `number` stands for another image of this kind, and a number always gives the same image. Measures do not remove the
image of the last round, but use a new image in each round. The reason: for each file that ext4 creates, it skips all inodes
that were deleted in the last minutes, one by one.
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
    """Random text. Like program text, it compresses to about a third."""
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
    """The image in the format of `docker save` before OCI layouts. The position of the file is its beginning."""
    file = _archive(number)
    file.seek(0)
    return file


def compressed(number: int) -> Image:
    """The image with layers that are compressed with gzip, as in a registry."""
    return image(_layers(number, "gzip"))


def variants(number: int, count: int) -> list[Image]:
    """Images that share the layers of `compressed`. Each has an additional layer, with 2 MB in 100 files."""
    base, chance = _layers(number, "gzip"), random.Random(-number)
    return [image([*base, _layer(chance, f"srv/{number}", 100, 2_000_000, "gzip")]) for number in range(count)]
