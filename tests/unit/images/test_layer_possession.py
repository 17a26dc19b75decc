"""Knowledge of a digest or diffID does not give a restricted client the layer of another client. No image gets a blob
that does not contain the layer."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.registry import Blob, Image, image, layer
from tests.registry.build import tar
from tests.registry.fakes import DirectoryStorage, ImagesFixture, drain, open_images
from tests.registry.hostile import Hostile, flip, hold, serving

from orlop_engine.images.manifests import Descriptor
from orlop_engine.images.policy import UNRESTRICTED, ImagePolicy
from orlop_engine.images.progress import Progress
from orlop_engine.images.pull import PullRequest
from orlop_engine.images.records import ResumeRecord
from orlop_engine.images.references import parse
from orlop_sdk import OrlopError

SECRET = layer({"secret": b"of another team"})
THEIRS = image([SECRET], config={"Env": ["PASSWORD=x"]})
OWN = layer({"own": b"1"})
MINE = image([OWN], config={"Labels": {"team": "mine"}})
Test = Callable[[ImagesFixture, Hostile], Awaitable[None]]


class Restricted:
    """A client of a listener with the label `team=mine`."""

    owner = "unix:///mine"

    def may_use(self, image: Any) -> bool:
        return (image.config.labels or {}).get("team") == "mine"

    def may_take(self, name: Any, image: Any, owner: str) -> bool:
        return True

    def may_delete(self, image: Any) -> bool:
        return bool(image.record.owner == self.owner)

    def denied(self, what: str) -> Exception:
        return PermissionError(what)


RESTRICTED: ImagePolicy = Restricted()


def run(tmp_path: Path, test: Test, **options: Any) -> None:
    async def main() -> None:
        with serving() as registry, trio.fail_after(30):
            async with open_images(str(tmp_path), **options) as images:
                registry.add("theirs", "1", THEIRS)
                await pull(images, f"{registry.host}/theirs:1")
                registry._blobs.clear()
                registry.requests.clear()
                await test(images, registry)

    trio.run(main)


async def pull(images: ImagesFixture, name: str, policy: ImagePolicy = UNRESTRICTED) -> str:
    """Pull an image. Returns the error, "" if the pull succeeded."""
    return await error_of(lambda: images.images.pull(PullRequest(parse(name), policy=policy)))


async def load(images: ImagesFixture, archive: bytes, policy: ImagePolicy = UNRESTRICTED) -> str:
    async def pieces() -> AsyncIterator[bytes]:
        yield archive

    return await error_of(lambda: images.images.load_archive(pieces(), policy=policy))


async def error_of(begin: Callable[[], Progress]) -> str:
    try:
        records = await drain(begin())
    except OrlopError as error:
        return str(error)
    return str(records[-1].get("error", "")) if records else ""


def forged(part: Blob, diff_id: str = SECRET.diff_id) -> Image:
    """An image of the restricted client whose configuration claims that `part` contains `diff_id`."""
    claimed = Blob(part.data, part.media_type, diff_id)
    return image([claimed], config={"Labels": {"team": "mine"}})


def has(images: ImagesFixture, name: str) -> bool:
    return any(name in found.repo_tags for found in images.images.all())


def test_pull_of_a_layer_that_the_registry_does_not_serve_is_refused(tmp_path: Path) -> None:
    async def test(images: ImagesFixture, registry: Hostile) -> None:
        attack = forged(SECRET)
        registry.add("attack", "1", attack)
        del registry._blobs[SECRET.digest]
        name = f"{registry.host}/attack:1"
        assert await pull(images, name, RESTRICTED)
        assert not has(images, name) and registry.paths(SECRET.digest), "it was asked for the layer"
        assert not await pull(images, name), "a client with full rights needs no proof"

    run(tmp_path, test)


def test_pull_of_a_layer_that_the_registry_serves_is_allowed(tmp_path: Path) -> None:
    async def test(images: ImagesFixture, registry: Hostile) -> None:
        registry.add("other", "1", forged(SECRET))
        before = images.unpacker.count
        assert not await pull(images, f"{registry.host}/other:1", RESTRICTED)
        assert registry.paths(SECRET.digest) and images.unpacker.count == before, "downloaded, and not unpacked again"
        assert not images.partials()
        registry.requests.clear()
        again = image([SECRET, OWN], config={"Labels": {"team": "mine"}})
        registry.add("again", "1", again)
        assert not await pull(images, f"{registry.host}/again:1", RESTRICTED)
        assert not registry.paths(SECRET.digest), "it has an image with the layer now"

    run(tmp_path, test)


def test_pull_of_a_manifest_with_a_wrong_blob_for_a_stored_layer_is_refused(tmp_path: Path) -> None:
    """The manifest lists a blob that the registry serves, but the configuration lists the diffID of another layer."""

    async def test(images: ImagesFixture, registry: Hostile) -> None:
        registry.add("attack", "1", forged(OWN))
        registry.add("mine", "1", MINE)
        name = f"{registry.host}/attack:1"
        assert "diffID" in await pull(images, name, RESTRICTED)
        assert not has(images, name)
        assert not await pull(images, f"{registry.host}/mine:1"), "the blob is here from now on, as another layer's"
        assert "diffID" in await pull(images, name, RESTRICTED)
        assert not await pull(images, name)
        assert images.images.resolve(name).layers[0].blob == SECRET.digest, "a push or save sends the layer's own blob"

    run(tmp_path, test)


def test_pull_does_not_use_a_stored_configuration_that_the_registry_does_not_serve(tmp_path: Path) -> None:
    async def test(images: ImagesFixture, registry: Hostile) -> None:
        name = f"{registry.host}/attack:1"
        registry.add("attack", "1", THEIRS)
        del registry._blobs[THEIRS.config.digest]
        assert await pull(images, name, RESTRICTED)
        assert not has(images, name)

    run(tmp_path, test)


def test_pull_of_a_restricted_client_does_not_resume_a_download_of_another_client(tmp_path: Path) -> None:
    """An interrupted download has all bytes of a layer; the registry of the restricted client has none of them."""

    async def test(images: ImagesFixture, registry: Hostile) -> None:
        later = layer({"later": b"of another team"})
        Path(images.root, "content/ingest", later.digest[7:]).write_bytes(later.data)
        images.images._image_store.leases.resumable["theirs"] = ResumeRecord((later.digest,), (), 4e9)
        registry.add("attack", "1", forged(later, later.diff_id))
        del registry._blobs[later.digest]
        name = f"{registry.host}/attack:1"
        assert await pull(images, name, RESTRICTED)
        assert not has(images, name) and images.partials() == {later.digest[7:]}
        assert not await pull(images, name), "a client with full rights continues the download"

    run(tmp_path, test)


def test_restricted_client_does_not_share_a_running_download_of_another_client(tmp_path: Path) -> None:
    async def test(images: ImagesFixture, registry: Hostile) -> None:
        later = layer({"later": b"of another team"})
        registry.add("theirs", "2", image([later]))
        registry.misbehave(later.digest, hold(registry.gate))
        with serving() as other:
            other.add("attack", "1", forged(later, later.diff_id))
            del other._blobs[later.digest]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pull, images, f"{registry.host}/theirs:2")
                with trio.fail_after(10):
                    while not registry.paths(later.digest):  # noqa: ASYNC110 - the registry is in another thread
                        await trio.sleep(0.01)
                assert await pull(images, f"{other.host}/attack:1", RESTRICTED)
                registry.gate.set()
        assert has(images, f"{registry.host}/theirs:2")

    run(tmp_path, test)


def test_wrong_content_from_a_registry_does_not_replace_a_stored_blob(tmp_path: Path) -> None:
    async def test(images: ImagesFixture, registry: Hostile) -> None:
        registry.add("other", "1", forged(SECRET))
        registry.misbehave(SECRET.digest, flip())
        assert await pull(images, f"{registry.host}/other:1", RESTRICTED)
        assert SECRET.digest[7:] in images.blobs() and not images.partials(), "the blob that was here stays as it was"
        assert Path(images.root, "content/blobs/sha256", SECRET.digest[7:]).read_bytes() == SECRET.data

    run(tmp_path, test)


def archive_of(attack: Image, member: bytes) -> bytes:
    entry = {"Config": "config.json", "RepoTags": ["attack:1"], "Layers": ["layer.tar"]}
    return tar({"config.json": attack.config.data, "layer.tar": member, "manifest.json": json.dumps([entry]).encode()})


@pytest.mark.parametrize("member", [b"", OWN.data], ids=["empty", "another layer"])
def test_restricted_client_cannot_load_an_archive_with_a_diff_id_but_without_the_layer(
    tmp_path: Path, member: bytes
) -> None:
    async def test(images: ImagesFixture, registry: Hostile) -> None:
        archive = archive_of(forged(SECRET), member)
        assert "invalid diffID" in await load(images, archive, RESTRICTED)
        assert not has(images, "attack:1")
        assert not await load(images, archive), "a client with full rights needs no proof, as in Docker"

    run(tmp_path, test)


def test_restricted_client_can_load_an_archive_that_contains_the_layer(tmp_path: Path) -> None:
    async def test(images: ImagesFixture, registry: Hostile) -> None:
        assert not await load(images, archive_of(forged(SECRET), SECRET.data), RESTRICTED)
        assert has(images, "attack:1")

    run(tmp_path, test)


def test_archive_must_contain_layers_that_no_stored_image_has(tmp_path: Path) -> None:
    """Only a container, a build or an interrupted pull still needs the layer. The rule applies to every client, because the
    new image keeps the blob of the archive."""

    async def main() -> None:
        storage = DirectoryStorage(str(tmp_path / "layers"))
        async with open_images(str(tmp_path), storage=storage) as images:
            store = images.images._image_store
            with store.leases.hold() as lease:
                lease.chains.add(SECRET.diff_id)
                digest = await images.images._content.put(SECRET.data)
                chain_id = diff_id = SECRET.diff_id
                await store.layers.build(chain_id, "", digest, diff_id, lambda _: None, lambda *_: None)
                for policy in (UNRESTRICTED, RESTRICTED):
                    assert "diffID" in await load(images, archive_of(forged(SECRET), OWN.data), policy)

    trio.run(main)


def test_build_of_a_restricted_client_gets_only_blobs_that_the_registry_serves(tmp_path: Path) -> None:
    async def test(images: ImagesFixture, registry: Hostile) -> None:
        request = PullRequest(parse(f"{registry.host}/attack:1"), policy=RESTRICTED)
        wanted = [Descriptor(SECRET.digest, len(SECRET.data), SECRET.media_type)]
        with images.images._image_store.leases.hold() as lease:
            with pytest.raises(OrlopError):
                await images.images.transfers.fetch_blobs(request, wanted, lease, lambda _: None)
            registry._blobs[SECRET.digest] = SECRET
            await images.images.transfers.fetch_blobs(request, wanted, lease, lambda _: None)

    run(tmp_path, test)
