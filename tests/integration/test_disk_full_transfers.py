"""A full disk during pushes, saves and adoptions: there is a clear error, nothing is left incomplete, and everything works
once there is space."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from tests.integration.adopting import running, system
from tests.integration.docker_root import snapshot
from tests.integration.docker_root_small import IMAGE, small_root
from tests.integration.engine import Engine
from tests.integration.push_fixture import error_of, pieces, pushed
from tests.integration.test_disk_space import MB, noise
from tests.registry import docker_archive, image, layer
from tests.registry.fakes import ImagesFixture, drain, open_images
from tests.registry.receiving import Receiving, receiving

from orlop_engine.images.archive_save import SaveRequest

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

FULL = "no space left on device"


class Disk:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._hog = path / "hog"

    @property
    def free(self) -> int:
        found = os.statvfs(self.path)
        return found.f_bfree * found.f_frsize

    def fill(self, leave: int = 0) -> None:
        """Use up the disk except for this many bytes."""
        with self._hog.open("ab", buffering=0) as hog:
            for piece in (1 << 20, 1 << 14, 4096):
                with suppress(OSError):
                    while self.free - piece >= leave:
                        hog.write(bytes(piece))
            os.fsync(hog.fileno())

    def empty(self) -> None:
        self._hog.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    path, device = tmp_path / "disk", tmp_path / "device"
    path.mkdir()
    with device.open("wb") as file:
        os.truncate(file.fileno(), 48 << 20)
    # Without blocks reserved for root
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", device], check=True)
    subprocess.run(["mount", "-o", "loop", device, path], check=True)
    yield Disk(path)
    subprocess.run(["umount", path], check=True)


# --- images -------------------------------------------------------------------------------------------------------------


def run(disk: Disk, test: Callable[[ImagesFixture, Receiving], Awaitable[None]]) -> None:
    """Run with an image of 4 MB, `app:v1` of the registry, whose layer is stored as a plain tar."""
    made = image([layer({"noise": noise(4 * MB)})])

    async def main() -> None:
        with receiving() as registry, trio.fail_after(120):
            async with open_images(str(disk.path)) as images:
                await drain(images.images.load_archive(pieces(docker_archive({f"{registry.host}/app:v1": made}))))
                await test(images, registry)

    trio.run(main)


def test_push_without_space_for_compressed_layers_fails_and_leaves_nothing(disk: Disk) -> None:
    async def check(images: ImagesFixture, registry: Receiving) -> None:
        before = images.blobs()
        disk.fill(leave=1 << 20)
        assert FULL in error_of(await pushed(images, registry)).lower()
        assert images.blobs() == before and not images.partials() and not registry.uploads and not registry.manifests
        disk.empty()
        assert not error_of(await pushed(images, registry))
        registry.pushed("app", "v1")

    run(disk, check)


def test_push_whose_result_cannot_be_stored_fails_and_can_be_repeated(disk: Disk) -> None:
    """The layers of the push are compressed already. The manifest, or the row with the digest, cannot be stored."""

    async def check(images: ImagesFixture, registry: Receiving) -> None:
        assert not error_of(await pushed(images, registry))
        await images.images.tag(f"{registry.host}/app:v1", f"{registry.host}/other", "v1")
        disk.fill()
        records = await pushed(images, registry, "other:v1")
        assert FULL in error_of(records).lower(), records
        assert not any("aux" in one for one in records)
        disk.empty()
        assert not error_of(await pushed(images, registry, "other:v1"))
        registry.pushed("other", "v1")

    run(disk, check)


def test_docker_save_works_on_a_full_disk(disk: Disk) -> None:
    async def check(images: ImagesFixture, registry: Receiving) -> None:
        request = SaveRequest([f"{registry.host}/app:v1"])
        before = [piece async for piece in await images.images.save(request)]
        disk.fill()
        after = [piece async for piece in await images.images.save(request)]
        assert b"".join(before) == b"".join(after)

    run(disk, check)


# --- adoptions ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[False, True], ids=["overlay2", "containerd"])
def root(request: pytest.FixtureRequest) -> Iterator[Path]:
    with small_root(containerd=request.param) as found:
        yield found


@pytest.fixture
def adopter(disk: Disk) -> Iterator[Engine]:
    engine = Engine({"bridge": "none"}, data_root=disk.path / "data")
    yield engine
    if engine.process is not None:
        engine.stop()
    assert engine.close() == []


LEVELS = [4096 * pages for pages in (0, 8, 24, 64, 512)]


def test_adoption_on_a_full_disk_changes_nothing_in_the_docker_root(disk: Disk, root: Path, adopter: Engine) -> None:
    """Repeats the adoption with a little more space each time, so that it fails at every step."""
    docker = disk.path / "docker"
    subprocess.run(["cp", "-a", root, docker], check=True)
    untouched, failed = snapshot(docker), 0
    for leave in LEVELS:
        disk.fill(leave)
        done = system(adopter, "adopt", str(docker), check=None)
        assert snapshot(docker) == untouched, "nothing in the Docker root was changed"
        if done.code:
            failed += 1
            assert FULL in done.err.lower() and "Traceback" not in done.err, (leave, done.err)
            disk.empty()
            adopter.start()
            assert not adopter.ok("ps", "-aq") and not adopter.ok("images", "-q") and not adopter.ok("volume", "ls", "-q")
            assert json.loads(adopter.orlop("system", "check", "--format", "json").out)["ok"]
            adopter.stop()
        else:
            disk.empty()
            system(adopter, "give-back")
    assert 0 < failed < len(LEVELS), failed
    system(adopter, "adopt", str(docker))
    adopter.start()
    assert adopter.ok("ps", "-a", "--format", "{{.Names}}") == "old" and running(adopter) == []
    adopter.stop()
    system(adopter, "give-back")


@pytest.mark.parametrize("for_good", [False, True], ids=["in place", "moved"])
def test_give_back_command_that_fails_on_a_full_disk_can_be_repeated(
    disk: Disk, root: Path, adopter: Engine, for_good: bool
) -> None:
    """A give-back frees space, so it usually succeeds. After a failure, nothing is lost."""
    docker = disk.path / "docker"
    if for_good and not (root / "image/overlay2/layerdb").is_dir():
        pytest.skip("a move is the same with both stores")
    subprocess.run(["cp", "-a", root, docker], check=True)
    names = sorted(snapshot(docker))
    for leave in LEVELS:
        system(adopter, "adopt", str(docker), *(["--for-good"] if for_good else []))
        disk.fill(leave)
        done = system(adopter, "give-back", check=None)
        disk.empty()
        if done.code:
            assert FULL in done.err.lower() and "Traceback" not in done.err, (leave, done.err)
            adopter.start()
            adopter.stop()
            system(adopter, "give-back", check=None)  # if the give-back had begun, the start has completed it
        assert sorted(snapshot(docker)) == names
        adopter.start()
        assert not adopter.ok("ps", "-aq") and not adopter.ok("images", "-q")
        adopter.stop()


def test_save_of_a_layer_without_a_blob_fails_on_a_full_disk_and_leaves_nothing(
    disk: Disk, root: Path, adopter: Engine
) -> None:
    """For a layer that is stored only unpacked, the first save makes the blob."""
    docker = disk.path / "docker"
    if not (root / "image/overlay2/layerdb").is_dir():
        pytest.skip("its layers have blobs")
    subprocess.run(["cp", "-a", root, docker], check=True)
    system(adopter, "adopt", str(docker))
    adopter.start()
    disk.fill()
    refused = adopter.docker("save", IMAGE, check=1)
    assert FULL in refused.err.lower() and "Traceback" not in adopter.log()
    assert os.listdir(adopter.data_root / "content/ingest") == []
    disk.empty()
    assert adopter.docker("save", IMAGE, check=0).stdout
    adopter.stop()
    system(adopter, "give-back")
