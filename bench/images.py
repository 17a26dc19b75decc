"""Measures of images: load, save, pull, push, list, remove. The registry runs on this machine."""

from __future__ import annotations

import atexit
import hashlib
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache, lru_cache, partial

from isal import igzip
from tests.registry import busybox, docker_archive, image, layer, running
from tests.registry import push as put

from . import application, pushing
from .engines import Connection, Engine, timed

__all__ = [
    "list_command",
    "list_request",
    "load",
    "number_of",
    "pull",
    "pull_ten",
    "push",
    "push_again",
    "push_large",
    "push_request",
    "push_second",
    "registry",
    "remove_tags",
    "save",
    "unpack_alone",
    "with_many",
]

_MANY = 500
_TAGS = 1000
_ROUNDS = 100
_MEASURES = ("", "load", "pull", "pull10", "push", "push-again", "erofs-pull", "erofs-rmi")


@cache
def registry() -> str:
    """The host of a registry that runs until this program ends."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(running()).host


_rounds: Counter[tuple[str, str]] = Counter()


def number_of(engine: Engine, measure: str) -> int:
    """The number of the image for the next round of a measure. All engines get the same number; no other round or measure
    uses it."""
    _rounds[engine.name, measure] += 1
    return _ROUNDS * _MEASURES.index(measure) + _rounds[engine.name, measure]


def load(engine: Engine) -> float:
    archive = application.archive(number_of(engine, "load"))
    os.sync()  # writes the data of earlier measures to the disk
    return timed(lambda: engine.docker("load", "-q", stdin=archive))


def save(engine: Engine) -> float:
    if application.name(0).encode() not in engine.get("/images/json"):
        engine.docker("load", "-q", stdin=application.archive(0))
    with open(os.devnull, "wb") as nothing:
        return timed(lambda: engine.docker("save", application.name(0), stdout=nothing))


@lru_cache(1)
def _pushed(number: int) -> str:
    put(registry(), f"application-{number}", "latest", application.compressed(number))
    return f"{registry()}/application-{number}"


def pull(engine: Engine) -> float:
    name = _pushed(number_of(engine, "pull"))
    os.sync()
    return timed(lambda: engine.docker("pull", "-q", name))


def unpack_alone(engine: Engine) -> float:
    """The work that every pull must do: decompress the layers of the same image, and hash the result. Here one thread does
    this work."""
    layers = [part.data for part in application.compressed(_ROUNDS * _MEASURES.index("pull") + 1).layers]
    return timed(lambda: [hashlib.sha256(igzip.decompress(data)).digest() for data in layers])  # type: ignore[no-untyped-call]


@lru_cache(1)
def _variants(number: int) -> list[str]:
    for which, one in enumerate(application.variants(number, 10)):
        put(registry(), f"variant-{number}-{which}", "latest", one)
    return [f"{registry()}/variant-{number}-{which}" for which in range(10)]


def pull_ten(engine: Engine) -> float:
    names = _variants(number_of(engine, "pull10"))
    os.sync()

    def all_of_them() -> None:
        with ThreadPoolExecutor(10) as pool:
            for _ in pool.map(partial(engine.docker, "pull", "-q"), names):
                pass

    return timed(all_of_them)


def push(engine: Engine) -> float:
    """Push a new image, whose layers no earlier push has compressed."""
    number = number_of(engine, "push")
    engine.docker("load", "-q", stdin=application.archive(number))
    with running() as empty:
        name = f"{empty.host}/application"
        engine.docker("tag", application.name(number), name)
        os.sync()
        try:
            return timed(lambda: engine.docker("push", name))
        finally:
            engine.docker("rmi", name)


def _pushed_by(engine: Engine) -> str:
    """The name of an image that the engine has pushed to the registry."""
    name, number = f"{registry()}/again-{engine.name}", _ROUNDS * _MEASURES.index("push-again")
    if name.encode() not in engine.get("/images/json"):
        engine.docker("load", "-q", stdin=application.archive(number))
        engine.docker("tag", application.name(number), name)
        engine.docker("push", name)
    return name


def push_again(engine: Engine) -> float:
    name = _pushed_by(engine)
    return timed(lambda: engine.docker("push", name))


def push_request(engine: Engine) -> float:
    """A push without the client, because the client takes half of the command's time."""
    name, connection = _pushed_by(engine), Connection(engine.socket)

    def ask(times: int) -> None:
        for _ in range(times):
            connection.request("POST", f"/images/{name}/push?tag=latest", headers={"X-Registry-Auth": "e30="})
            said = connection.getresponse().read()
            if b'"aux"' not in said:
                raise RuntimeError(f"{engine.name}: {said[-300:]!r}")

    ask(1)
    took = timed(lambda: ask(10)) / 10
    connection.close()
    return took


def push_large(engine: Engine) -> float:
    with pushing.to_push(engine) as name:
        return timed(lambda: engine.docker("push", name))


def push_second(engine: Engine) -> float:
    with pushing.to_push(engine) as name, running() as second:
        engine.docker("push", name)
        other = f"{second.host}/large"
        engine.docker("tag", name, other)
        try:
            return timed(lambda: engine.docker("push", other))
        finally:
            engine.docker("rmi", other)


@cache
def _archive_of_many() -> bytes:
    base = layer(busybox())
    names = (f"bench/many-{number}:latest" for number in range(_MANY))
    return docker_archive({name: image([base], config={"Cmd": [name]}) for name in names})


def with_many(measure: Callable[[Engine], float]) -> Callable[[Engine], float]:
    """Measure with 500 images, which stay for later measures."""

    def measured(engine: Engine) -> float:
        if b"bench/many-0:latest" not in engine.get("/images/json"):
            engine.docker("load", "-q", input=_archive_of_many(), stdin=None)
        return measure(engine)

    return measured


def list_command(engine: Engine) -> float:
    return timed(lambda: engine.docker("images"))


def list_request(engine: Engine) -> float:
    connection = Connection(engine.socket)

    def ask(times: int) -> None:
        for _ in range(times):
            connection.request("GET", "/images/json")
            connection.getresponse().read()

    ask(1)
    took = timed(lambda: ask(20)) / 20
    connection.close()
    return took


def remove_tags(engine: Engine) -> float:
    source = "bench/tagged:latest"
    engine.docker(
        "load", "-q", input=docker_archive({source: image([layer(busybox())], config={"Cmd": ["tagged"]})}), stdin=None
    )
    names = [f"bench/tag:{number}" for number in range(_TAGS)]
    for number in range(_TAGS):
        engine.request("POST", f"/images/{source}/tag?repo=bench/tag&tag={number}")
    return timed(lambda: engine.docker("rmi", *names))
