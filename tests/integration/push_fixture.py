"""Pushes of one image to a registry that a test controls."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import trio
import trio.testing
from tests.registry import docker_archive, image, layer
from tests.registry.build import Content
from tests.registry.fakes import ImagesFixture, drain, open_images
from tests.registry.receiving import Receiving, receiving

from orlop_engine.images import documents
from orlop_engine.images.records import Layer
from orlop_engine.images.references import parse
from orlop_engine.images.transfers import PushRequest

Test = Callable[[ImagesFixture, Receiving], Awaitable[None]]


# Not compressible, so that the layer is larger than one upload request
NOISE = b"".join(documents.digest(b"%d" % n).encode() for n in range(60_000))
FILES: tuple[dict[str, Content], ...] = ({"etc/": None, "etc/base": NOISE}, {"hello": b"hi"})
APP = image([layer(files) for files in FILES], config={"Env": ["A=b"], "Labels": {"who": "me"}})
OCI = image([layer(FILES[0], compression="zstd", oci=True), layer(FILES[1], oci=True)], oci=True)
IDS = [part.diff_id[7:19] for part in APP.layers]


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    await trio.lowlevel.checkpoint()
    yield data


def run(tmp_path: Path, test: Test, *, names: tuple[str, ...] = ("app:v1",), archive: bytes = b"", **options: Any) -> None:
    """Run with one registry, and one image service that has loaded APP by these names of the registry."""

    async def main() -> None:
        with receiving() as registry, trio.fail_after(150):
            async with open_images(str(tmp_path), **options) as images:
                data = archive or docker_archive({f"{registry.host}/{name}": APP for name in names})
                await drain(images.images.load_archive(pieces(data)))
                await test(images, registry)

    trio.run(main)


async def pushed(images: ImagesFixture, registry: Receiving, name: str = "app:v1", **more: Any) -> list[dict[str, Any]]:
    return await drain(images.images.push(PushRequest(parse(f"{registry.host}/{name}"), **more)))


def error_of(records: list[dict[str, Any]]) -> str:
    return str(records[-1].get("error", ""))


def states(records: list[dict[str, Any]], id: str) -> list[str]:
    """The states of a layer, without progress."""
    return [one["status"] for one in records if one.get("id") == id and not one["progressDetail"]]


async def settled(images: ImagesFixture) -> None:
    """Wait until the compression of another layer, which was cancelled, has ended."""
    while images.partials():
        await trio.testing.wait_all_tasks_blocked()


def layers(images: ImagesFixture) -> tuple[Layer, ...]:
    return images.images.all()[0].layers
