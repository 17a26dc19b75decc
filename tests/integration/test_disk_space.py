"""Pulls and loads that do not fit on the disk are refused before they fill it. The disk is a small tmpfs."""

from __future__ import annotations

import os
import random
import re
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.registry import Image, docker_archive, image, layer, oci_archive
from tests.registry.fakes import ImagesFixture, drain, open_images
from tests.registry.hostile import Hostile, serving, truncate

from orlop_engine.images.disk_space import DiskSpace, least_unpacked
from orlop_engine.images.pull import PullRequest
from orlop_engine.images.references import parse
from orlop_sdk import DriverError

pytestmark = pytest.mark.root

MB = 1_000_000


def noise(size: int, seed: int = 0) -> bytes:
    """Content that no compression makes smaller."""
    return random.Random(seed).randbytes(size)


def app(size: int) -> Image:
    """An image with a layer of this size. Tests make it before the event loop runs, because this takes long."""
    return image([layer({"noise": noise(size)})])


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "orlop-test", path], check=True)
    yield path
    subprocess.run(["umount", path], check=True)


def free(path: Path) -> int:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def run(disk: Path, test: Callable[[ImagesFixture, Hostile], Awaitable[None]]) -> None:
    async def main() -> None:
        with serving() as registry, trio.fail_after(150):
            async with open_images(str(disk)) as images:
                await test(images, registry)

    trio.run(main)


async def error_of_pull(images: ImagesFixture, registry: Hostile) -> str:
    records = await drain(images.images.pull(PullRequest(parse(f"{registry.host}/app:v1"))))
    return str(records[-1].get("error", ""))


async def error_of_load(images: ImagesFixture, data: bytes) -> str:
    async def body() -> AsyncIterator[bytes]:
        for at in range(0, len(data), 1 << 18):
            yield data[at : at + (1 << 18)]
            await trio.lowlevel.checkpoint()

    try:
        records: list[dict[str, Any]] = await drain(images.images.load_archive(body()))
    except DriverError as error:
        return str(error)
    return str(records[-1].get("error", ""))


def test_pull_of_an_image_that_does_not_fit_on_the_disk_downloads_no_layer(disk: Path) -> None:
    large = app(8 * MB)

    async def test(images: ImagesFixture, registry: Hostile) -> None:
        registry.add("app", "v1", large)
        before = free(disk)
        found = re.fullmatch(
            r"cannot pull 127\.0\.0\.1:\d+/app:v1: no space left on device: it needs at least 16MB \(8MB stored, "
            r"8MB unpacked\), and 1[3-6]\.?\dMB are free in (.*)/content, of which 336kB are kept in reserve; "
            r'"orlop system prune" removes unused objects, "orlop system df" shows the used space',
            await error_of_pull(images, registry),
        )
        assert found and found[1] == str(disk)
        assert len(registry.paths("/blobs/")) == 1, "the configuration"
        assert images.is_empty() and before - free(disk) < MB
        await trio.run_process(["mount", "-o", "remount,size=32m", str(disk)])
        assert not await error_of_pull(images, registry)

    run(disk, test)


def test_pull_of_an_image_that_fits_on_the_disk_is_not_refused(disk: Path) -> None:
    small = app(6 * MB)

    async def test(images: ImagesFixture, registry: Hostile) -> None:
        registry.add("app", "v1", small)
        assert not await error_of_pull(images, registry)
        assert not await error_of_pull(images, registry), "nothing is needed for it any more"

    run(disk, test)


def test_resumed_download_needs_space_only_for_the_missing_part(disk: Path) -> None:
    small = app(6 * MB)

    async def test(images: ImagesFixture, registry: Hostile) -> None:
        registry.add("app", "v1", small)
        registry.misbehave(small.layers[0].digest, truncate(4 * MB), *[truncate(0)] * 20)
        assert "unexpected EOF" in await error_of_pull(images, registry)
        assert [*images.partials()] and free(disk) < 12 * MB, "some of it has arrived"
        registry.misbehave(small.layers[0].digest)
        assert not await error_of_pull(images, registry)

    run(disk, test)


def test_layer_whose_unpacked_size_does_not_fit_on_the_disk_is_not_unpacked(disk: Path) -> None:
    """30 MB of zeros are 30 kB in the registry, so the unpacked size is known only after the download."""
    grows = image([layer({"zeros": bytes(30 * MB)})])

    async def test(images: ImagesFixture, registry: Hostile) -> None:
        registry.add("app", "v1", grows)
        error = await error_of_pull(images, registry)
        assert "no space left on device: it needs at least 30MB (30MB unpacked)" in error
        assert images.unpacker.count == 0 and images.is_empty()

    run(disk, test)


def test_load_of_an_archive_that_does_not_fit_on_the_disk_fails_before_its_end_is_read(disk: Path) -> None:
    archive = docker_archive({"app:v1": app(30 * MB)})

    async def test(images: ImagesFixture, registry: Hostile) -> None:
        before = free(disk)
        error = await error_of_load(images, archive)
        assert error.startswith("cannot store the archive: no space left on device: it needs at least")
        assert images.is_empty() and before - free(disk) < MB

    run(disk, test)


@pytest.mark.parametrize("kind", [docker_archive, oci_archive])
def test_load_of_an_archive_fails_if_its_unpacked_image_does_not_fit_on_the_disk(
    disk: Path, kind: Callable[[dict[str, Image]], bytes]
) -> None:
    """The load fails before a layer of the image is unpacked."""
    large, small = kind({"app:v1": app(9 * MB)}), kind({"app:v1": app(6 * MB)})

    async def test(images: ImagesFixture, registry: Hostile) -> None:
        error = await error_of_load(images, large)
        assert error.startswith("cannot load app:v1: no space left on device: it needs at least 9")
        assert images.is_empty() and images.unpacker.count == 0
        assert not await error_of_load(images, small)

    run(disk, test)


def test_reserved_space_of_a_large_disk_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def disk_of(size: int, available: int) -> None:
        found = os.statvfs_result((4096, 4096, size // 4096, 0, available // 4096, 0, 0, 0, 0, 255))
        monkeypatch.setattr(os, "statvfs", lambda path: found)

    disk_of(10**13, 10**9)
    DiskSpace("/x").check("do it", stored=488_000_000 - 4096)
    with pytest.raises(DriverError, match=r"needs at least 489MB \(489MB stored\), and 1GB are free in /x, of which 512MB"):
        DiskSpace("/x").check("do it", stored=489_000_000)
    disk_of(10**13, 0)
    DiskSpace("/x").check("do it")


def test_minimum_unpacked_size_is_taken_from_the_gzip_trailer_or_the_blob_length(tmp_path: Path) -> None:
    """The minimum of a layer's unpacked size, computed before the layer is unpacked."""

    def least(data: bytes) -> int:
        path = tmp_path / "layer"
        path.write_bytes(data)
        with path.open("rb") as file:
            return least_unpacked(file.fileno(), len(data))

    plain = layer({"zeros": bytes(MB)}, compression="none").data
    assert least(plain) == len(plain) == least(layer({"zeros": bytes(MB)}).data)
    zstd = layer({"zeros": bytes(MB)}, compression="zstd").data
    assert least(zstd) == len(zstd)
    assert least(b"\x1f\x8b") == 2 and least(b"") == 0
