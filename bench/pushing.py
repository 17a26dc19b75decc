"""An image that is expensive to push: one layer of 256 MB, which compresses to about 60 %."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from tests.registry import docker_archive, image, layer, running

from .engines import Engine

__all__ = ["LARGE", "to_push"]

LARGE = "bench/large:latest"


@cache
def _large_image() -> bytes:
    rows = b"".join(os.urandom(32).hex().encode() for _ in range(1 << 20))
    return docker_archive({LARGE: image([layer({"rows": rows * 4}, compression="none")])})


@contextmanager
def to_push(engine: Engine) -> Iterator[str]:
    """Load the image again, so that no push has compressed its layer. Returns its name at a new, empty registry."""
    engine.docker("load", input=_large_image(), stdin=None)
    with running() as registry:
        name = f"{registry.host}/large"
        engine.docker("tag", LARGE, name)
        os.sync()
        try:
            yield name
        finally:
            engine.docker("rmi", name, LARGE)
