"""Prunes while images are pulled, loaded, saved and pushed: with any filters, images and layers that an operation uses
stay."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.registry import Blob, docker_archive, image, layer
from tests.registry.fakes import ImagesFixture, Unpacker, drain, open_images
from tests.registry.hostile import Handler, Hostile, hold, serving, truncate
from tests.registry.receiving import receiving

from orlop_engine.images.pull import PullRequest
from orlop_engine.images.references import parse
from orlop_engine.images.transfers import PushRequest

BASE, TOP = layer({"base": b"x" * 50_000}, compression="none"), layer({"top": b"1"})
APP = image([BASE, TOP], config={"Labels": {"a": "b"}})
OLD = image([layer({"old": b"1"})])

FILTERS: Sequence[Mapping[str, Sequence[str]]] = (
    {},
    {"dangling": ["true"]},
    {"dangling": ["false"]},
    {"dangling": ["false"], "until": ["0s"]},
    {"dangling": ["false"], "label": ["a"]},
    {"dangling": ["false"], "label!": ["none"]},
    {"dangling": ["false"], "until": ["1h"]},
)


async def prune_with_everything(images: ImagesFixture) -> None:
    for filters in FILTERS:
        await images.images.prune(filters)


def complete(images: ImagesFixture, name: str) -> None:
    found = images.images.resolve(name)
    assert found.id == APP.id
    for part in found.layers:
        assert images.images._content.has(part.blob)
    assert set(found.chain_ids) <= set(images.storage.parents)


async def pull(images: ImagesFixture, registry: Hostile, results: list[dict[str, Any]]) -> None:
    results += await drain(images.images.pull(PullRequest(parse(f"{registry.host}/app:v1"))))


async def reached(test: Any) -> None:
    """Wait for other threads, which run the registry or write files."""
    while not test():  # noqa: ASYNC110 - threads set no event of trio
        await trio.sleep(0.005)


@pytest.mark.parametrize("digest", [APP.config.digest, BASE.digest, TOP.digest])
def test_prune_keeps_content_that_a_running_pull_downloads(tmp_path: Path, digest: str) -> None:
    async def main() -> None:
        with serving() as registry, trio.fail_after(30):
            registry.add("app", "v1", APP)
            go = threading.Event()
            registry.misbehave(digest, hold(go))
            async with open_images(str(tmp_path)) as images, trio.open_nursery() as nursery:
                results: list[dict[str, Any]] = []
                nursery.start_soon(pull, images, registry, results)
                await reached(lambda: registry.paths(digest))
                await prune_with_everything(images)
                go.set()
                await reached(lambda: results)
                assert "error" not in results[-1]
                complete(images, f"{registry.host}/app:v1")

    trio.run(main)


@pytest.mark.parametrize("count", [1, 2])
def test_prune_keeps_layers_that_are_being_unpacked(tmp_path: Path, count: int) -> None:
    class Slow(Unpacker):
        async def __call__(self, *args: Any, **options: Any) -> Any:
            self.gate = gate if self.count + 1 == count else None
            return await super().__call__(*args, **options)

    gate = trio.Event()
    unpacker = Slow()

    async def main() -> None:
        with serving() as registry, trio.fail_after(30):
            registry.add("app", "v1", APP)
            async with open_images(str(tmp_path), unpacker=unpacker) as images, trio.open_nursery() as nursery:
                results: list[dict[str, Any]] = []
                nursery.start_soon(pull, images, registry, results)
                await reached(lambda: unpacker.count == count)
                await prune_with_everything(images)
                gate.set()
                await reached(lambda: results)
                assert "error" not in results[-1]
                complete(images, f"{registry.host}/app:v1")

    trio.run(main)


def test_pull_resumes_a_broken_download_although_a_prune_ran(tmp_path: Path) -> None:
    """A prune removes the content of interrupted pulls. It keeps the content of a running pull, which resumes after a
    broken connection."""

    async def main() -> None:
        with serving() as registry, trio.fail_after(30):
            registry.add("app", "v1", APP)
            go = threading.Event()

            def late(handler: Handler, item: Blob | None) -> None:
                go.wait(30)
                truncate(0)(handler, item)

            registry.misbehave(BASE.digest, truncate(20_000), late, *[truncate(0)] * 20)
            async with open_images(str(tmp_path)) as images, trio.open_nursery() as nursery:
                results: list[dict[str, Any]] = []
                nursery.start_soon(pull, images, registry, results)
                await reached(lambda: len(registry.paths(BASE.digest)) == 2)
                await prune_with_everything(images)
                go.set()
                await reached(lambda: results)
                assert "unexpected EOF" in results[-1]["error"]
                assert BASE.digest[7:] in images.partials(), "kept for the next pull"
                await images.images.prune({})
                assert images.is_empty(), "now it does not run"

    trio.run(main)


def test_prune_keeps_layers_and_blobs_that_a_running_load_needs(tmp_path: Path) -> None:
    gate = trio.Event()
    unpacker = Unpacker(gate=gate)

    async def body() -> AsyncIterator[bytes]:
        yield docker_archive({"app:v1": APP})

    async def main() -> None:
        with trio.fail_after(30):
            async with open_images(str(tmp_path), unpacker=unpacker) as images, trio.open_nursery() as nursery:
                results: list[dict[str, Any]] = []

                async def load() -> None:
                    results.extend(await drain(images.images.load_archive(body())))

                nursery.start_soon(load)
                await reached(lambda: unpacker.count == 1)
                await prune_with_everything(images)
                gate.set()
                await reached(lambda: results)
                complete(images, "app:v1")

    trio.run(main)


@pytest.mark.parametrize("filters", FILTERS)
def test_prune_keeps_blobs_that_a_running_save_reads(tmp_path: Path, filters: Mapping[str, Sequence[str]]) -> None:
    from orlop_engine.images.archive_save import SaveRequest

    async def body() -> AsyncIterator[bytes]:
        yield docker_archive({"app:v1": APP, "old:1": OLD})

    async def main() -> None:
        with trio.fail_after(30):
            async with open_images(str(tmp_path)) as images:
                await drain(images.images.load_archive(body()))
                whole = [piece async for piece in await images.images.save(SaveRequest(("app:v1",)))]
                archive = await images.images.save(SaveRequest(("app:v1",)))
                begun = [await anext(archive)]
                await images.images.prune(filters)
                assert b"".join(begun + [piece async for piece in archive]) == b"".join(whole)
                await images.images.prune({"dangling": ["false"]})
                assert images.is_empty()

    trio.run(main)


@pytest.mark.parametrize(("method", "path"), [("HEAD", "blobs"), ("POST", ""), ("PUT", "uploads"), ("PUT", "manifests")])
def test_prune_keeps_content_that_a_push_uses(tmp_path: Path, method: str, path: str) -> None:
    """The prune also keeps the blobs that the push compresses. After the push, everything is removed, because the image has
    been pruned."""

    async def body(name: str) -> AsyncIterator[bytes]:
        yield docker_archive({name: APP})

    async def main() -> None:
        with receiving() as registry, trio.fail_after(30):

            def slowly(handler: Any) -> None:
                registry.reached.set()
                registry.gate.wait(20)
                registry.honest(handler)

            registry.script(method, slowly, path=path)
            name = f"{registry.host}/app:v1"
            async with open_images(str(tmp_path)) as images, trio.open_nursery() as nursery:
                await drain(images.images.load_archive(body(name)))
                results: list[dict[str, Any]] = []

                async def push() -> None:
                    results.extend(await drain(images.images.push(PushRequest(parse(name)))))

                nursery.start_soon(push)
                await trio.to_thread.run_sync(registry.reached.wait, 20)
                await prune_with_everything(images)
                assert not images.images.all() and not images.is_empty()
                registry.gate.set()
                await reached(lambda: results)
                assert "error" not in results[-1]
                registry.pushed("app", "v1")
                await images.images.collect()
                assert images.is_empty()

    trio.run(main)
