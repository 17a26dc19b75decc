"""Saved archives: their content, access to them, and the effects of a removal, a disconnected client and a damaged blob."""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import os
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from tests.registry import Image, docker_archive, image, layer, oci_archive
from tests.registry.build import Blob, index
from tests.registry.fakes import ImagesFixture, drain, open_images

from orlop_engine.images.archive_save import ImageArchive, SaveRequest
from orlop_engine.images.content import DamagedBlob
from orlop_engine.images.platforms import Platform
from orlop_engine.images.policy import UNRESTRICTED
from orlop_guard_listeners.image_names import ListenerImages
from orlop_guard_listeners.label_scope import LabelScope
from orlop_guard_listeners.listener_policy import Denied, ListenerPolicy
from orlop_kernel.config import Listener
from orlop_sdk import DriverError, InvalidParameter, NotFound

BASE, TOP = layer({"base": os.urandom(2_500_000)}), layer({"top": b"1"})
APP = image([BASE, TOP], config={"Labels": {"team": "web"}})
OTHER = image([BASE, layer({"other": b"22"})])


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def load(fixture: ImagesFixture, data: bytes) -> None:
    records = await drain(fixture.images.load_archive(pieces(data)))
    assert "error" not in records[-1], records


async def opened(fixture: ImagesFixture, *names: str, **more: Any) -> ImageArchive:
    return await fixture.images.save(SaveRequest(names, **more))


async def saved(fixture: ImagesFixture, *names: str, **more: Any) -> bytes:
    return b"".join([piece async for piece in await opened(fixture, *names, **more)])


def members(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        found = archive.getmembers()
        assert [entry.name for entry in found] == sorted({entry.name for entry in found}), "each once, in order"
        assert {(entry.mtime, entry.uid, entry.gid) for entry in found} == {(0, 0, 0)}
        return {entry.name: archive.extractfile(entry).read() for entry in found if entry.isreg()}  # type: ignore[union-attr]


def on(tmp_path: Path, *archives: bytes) -> Callable[[Callable[[ImagesFixture], Awaitable[None]]], None]:
    """Run a body on a store with these archives."""

    def run(body: Callable[[ImagesFixture], Awaitable[None]]) -> None:
        async def main() -> None:
            async with open_images(str(tmp_path)) as fixture:
                for archive in archives:
                    await load(fixture, archive)
                await body(fixture)

        trio.run(main)

    return run


BOTH = docker_archive({"a:x": APP, "b:x": OTHER})


def test_saved_archive_is_an_oci_layout_with_dockers_manifest_json(tmp_path: Path) -> None:
    @on(tmp_path, BOTH)
    async def _(fixture: ImagesFixture) -> None:
        await fixture.images.tag("a:x", "registry.example:5000/team/a", "y")
        data = await saved(fixture, "a:x", "registry.example:5000/team/a:y", "b:x")
        assert data == await saved(fixture, "a:x", "registry.example:5000/team/a:y", "b:x"), "the same bytes each time"
        found = members(data)
        blobs = {name: content for name, content in found.items() if name.startswith("blobs/")}
        assert len(blobs) == 2 + 2 + 3, "manifests, configurations, and three layers, one of them shared"
        for name, content in blobs.items():
            assert name == "blobs/sha256/" + hashlib.sha256(content).hexdigest()
        assert json.loads(found["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
        layers = [f"blobs/sha256/{part.diff_id[7:]}" for part in (*APP.layers, OTHER.layers[1])]
        assert json.loads(found["manifest.json"]) == [
            {
                "Config": f"blobs/sha256/{APP.id[7:]}",
                "RepoTags": ["a:x", "registry.example:5000/team/a:y"],
                "Layers": layers[:2],
            },
            {"Config": f"blobs/sha256/{OTHER.id[7:]}", "RepoTags": ["b:x"], "Layers": [layers[0], layers[2]]},
        ]
        tops = [path.removeprefix("blobs/sha256/") for path in layers[1:]]
        assert json.loads(found["repositories"]) == {
            "a": {"x": tops[0]},
            "b": {"x": tops[1]},
            "registry.example:5000/team/a": {"y": tops[0]},
        }
        listed = json.loads(found["index.json"])
        assert (listed["schemaVersion"], listed["mediaType"]) == (2, "application/vnd.oci.image.index.v1+json")
        notes = [entry["annotations"] for entry in listed["manifests"]]
        assert [note["io.containerd.image.name"] for note in notes] == [
            "docker.io/library/a:x",
            "registry.example:5000/team/a:y",
            "docker.io/library/b:x",
        ]
        assert [note["org.opencontainers.image.ref.name"] for note in notes] == ["x", "y", "x"]
        for entry in listed["manifests"]:
            manifest = json.loads(blobs["blobs/sha256/" + entry["digest"][7:]])
            assert manifest["mediaType"] == entry["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
            for part in (manifest["config"], *manifest["layers"]):
                assert len(blobs["blobs/sha256/" + part["digest"][7:]]) == part["size"]
        assert fixture.actions()[-2:] == [("save", APP.id, APP.id), ("save", OTHER.id, OTHER.id)]


@pytest.mark.parametrize(
    ("names", "tags"),
    [
        (["a"], {APP.id: ["a:x", "a:z"], OTHER.id: ["a:y"]}),
        (["a:y", "a:x", "a:y"], {OTHER.id: ["a:y"], APP.id: ["a:x"]}),
        ([APP.id], {APP.id: None}),
        ([APP.id[7:20]], {APP.id: None}),
        ([APP.id[7:], "a:z"], {APP.id: ["a:z"]}),
        (["docker.io/library/a:x"], {APP.id: ["a:x"]}),
    ],
)
def test_names_in_a_save_request_select_images_and_tags(
    tmp_path: Path, names: list[str], tags: dict[str, list[str] | None]
) -> None:
    @on(tmp_path, docker_archive({"a:x": APP}), docker_archive({"a:y": OTHER}), docker_archive({"a:z": APP}))
    async def _(fixture: ImagesFixture) -> None:
        table = json.loads(members(await saved(fixture, *names))["manifest.json"])
        assert [(f"sha256:{entry['Config'][13:]}", entry["RepoTags"]) for entry in table] == list(tags.items())


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("nosuch", NotFound, "No such image: nosuch"),
        ("a:nosuch", NotFound, "reference does not exist"),
        pytest.param(f"a@{APP.id}", NotFound, "reference does not exist", id="by an id"),
        ("sha256:" + "0" * 64, NotFound, "No such image: sha256:" + "0" * 64),
        ("sha256:zz", NotFound, "No such image: sha256:zz"),
        ("A", InvalidParameter, "invalid reference format: repository name (library/A) must be lowercase"),
        ("", InvalidParameter, "invalid reference format"),
    ],
)
def test_invalid_save_request_fails_before_the_first_byte_and_holds_no_images(
    tmp_path: Path, name: str, kind: type[Exception], message: str
) -> None:
    @on(tmp_path, BOTH)
    async def _(fixture: ImagesFixture) -> None:
        with pytest.raises(kind) as caught:
            await opened(fixture, "a:x", name)
        assert str(caught.value) == message
        await fixture.images.remove("a:x")
        await fixture.images.remove("b:x")
        assert fixture.is_empty(), "nothing is held any more"


def test_save_without_names_gives_an_empty_archive(tmp_path: Path) -> None:
    @on(tmp_path)
    async def _(fixture: ImagesFixture) -> None:
        found = members(await saved(fixture))
        assert (json.loads(found["manifest.json"]), json.loads(found["index.json"])["manifests"]) == ([], [])


def test_save_of_a_platform_that_the_image_lacks_is_refused(tmp_path: Path) -> None:
    @on(tmp_path, BOTH)
    async def _(fixture: ImagesFixture) -> None:
        assert await saved(fixture, "a:x", platforms=(Platform("linux", "amd64"),))
        with pytest.raises(NotFound, match="does not provide the specified platform"):
            await opened(fixture, "a:x", platforms=(Platform("linux", "amd64"), Platform("linux", "arm64")))


def test_listener_with_labels_saves_only_images_with_the_labels(tmp_path: Path) -> None:
    def policy(*labels: str, shared: bool = False) -> ListenerImages:
        entry = Listener(host="unix:///ci", role="no-exec", labels=labels, shared_images=shared)
        found = ListenerPolicy.of(entry)
        matches = LabelScope(None, found).matches if labels else None  # type: ignore[arg-type]
        return ListenerImages(found, matches, found.denied, pulling=False)

    @on(tmp_path, docker_archive({"a:x": APP, "a:y": OTHER}))
    async def _(fixture: ImagesFixture) -> None:
        for allowed in (UNRESTRICTED, policy(), policy("team=web", shared=True)):
            assert await saved(fixture, "a", policy=allowed)
        assert await saved(fixture, "a:x", policy=policy("team=web"))
        for name in ("a:y", "a", OTHER.id):  # the name without a tag includes an image without the label
            with pytest.raises(Denied, match=r"saving image .* is not allowed for role no-exec of listener unix:///ci"):
                await opened(fixture, name, policy=policy("team=web"))


# --- what was received goes out again ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parts",
    [
        [layer({"a": b"1"}, oci=True), layer({"b": b"2"}, compression="zstd")],
        [layer({"a": b"1"}, compression="none")],
        [],
    ],
    ids=["gzip and zstd", "plain", "no layers"],
)
def test_save_keeps_manifest_and_blobs_of_an_oci_image(tmp_path: Path, parts: list[Blob]) -> None:
    made = image(parts, oci=True)

    @on(tmp_path, oci_archive({"docker.io/library/c:x": made}))
    async def _(fixture: ImagesFixture) -> None:
        data = await saved(fixture, "c:x")
        found = members(data)
        for part in (made.manifest, made.config, *made.layers):
            assert found[f"blobs/sha256/{part.digest[7:]}"] == part.data
        assert json.loads(found["index.json"])["manifests"][0]["digest"] == made.manifest.digest
        await fixture.images.remove("c:x")
        await load(fixture, data)
        assert await saved(fixture, "c:x") == data


def test_save_converts_a_docker_manifest_to_an_oci_manifest(tmp_path: Path) -> None:
    """umoci reads only OCI manifests. The image's ID stays the same."""
    made = image([layer({"a": b"1"})])
    assert "docker" in made.manifest.media_type

    @on(tmp_path, oci_archive({"docker.io/library/c:x": made}))
    async def _(fixture: ImagesFixture) -> None:
        found = members(await saved(fixture, "c:x"))
        (entry,) = json.loads(found["index.json"])["manifests"]
        manifest = json.loads(found["blobs/sha256/" + entry["digest"][7:]])
        assert manifest["config"]["digest"] == made.id
        assert [part["mediaType"] for part in manifest["layers"]] == ["application/vnd.oci.image.layer.v1.tar+gzip"]


def test_save_keeps_the_bytes_of_layers_with_any_compression(tmp_path: Path) -> None:
    plain = layer({"a": b"1"}, compression="none")
    packed = Blob(lzma.compress(plain.data), plain.media_type, plain.diff_id)

    @on(tmp_path, BOTH)
    async def _(fixture: ImagesFixture) -> None:
        content = fixture.images._content
        digest = await content.put(packed.data)
        made = fixture.images.resolve("b:x")
        record = made.record.layers[1]
        object.__setattr__(
            made.record, "layers", (made.record.layers[0], type(record)(digest, "", len(packed.data), "", "", 0))
        )
        found = members(await saved(fixture, "b:x"))
        assert found[f"blobs/sha256/{digest[7:]}"] == packed.data
        (entry,) = json.loads(found["index.json"])["manifests"]
        manifest = json.loads(found["blobs/sha256/" + entry["digest"][7:]])
        assert manifest["layers"][1]["mediaType"] == "application/vnd.oci.image.layer.v1.tar+xz"


# --- while it is sent -------------------------------------------------------------------------------------------------


def test_image_can_be_removed_during_a_save_without_damage_to_the_archive(tmp_path: Path) -> None:
    @on(tmp_path, BOTH)
    async def _(fixture: ImagesFixture) -> None:
        whole = await saved(fixture, "a:x")
        archive = await opened(fixture, "a:x")
        begun = [await anext(archive)]
        await fixture.images.remove("a:x")
        await fixture.images.remove("b:x")
        await fixture.images.prune({})
        assert b"".join(begun + [piece async for piece in archive]) == whole
        assert fixture.is_empty(), "the archive's end lets go of what was removed"


@pytest.mark.parametrize("read", [0, 1, 4, 6])
def test_client_that_disconnects_during_a_save_leaves_no_lease_and_no_descriptor(tmp_path: Path, read: int) -> None:
    @on(tmp_path, BOTH)
    async def _(fixture: ImagesFixture) -> None:
        before = len(os.listdir("/proc/self/fd"))
        archive = await opened(fixture, "a:x")
        for _ in range(read):
            await anext(archive)
        await fixture.images.remove("a:x")
        await fixture.images.remove("b:x")
        await archive.aclose()
        await archive.aclose()
        assert fixture.is_empty() and len(os.listdir("/proc/self/fd")) == before
        with pytest.raises(StopAsyncIteration):
            await anext(archive)
        assert "save" not in [action for action, _, _ in fixture.actions()], "it was not saved"


def test_save_waits_for_the_end_of_a_garbage_collection_that_began_earlier(tmp_path: Path) -> None:
    """If the image has just lost its last name, the collection could remove blobs that the save needs."""

    @on(tmp_path, BOTH)
    async def _(fixture: ImagesFixture) -> None:
        archives: list[ImageArchive] = []

        async def save() -> None:
            archives.append(await opened(fixture, "a:x"))

        async with trio.open_nursery() as nursery:
            async with fixture.images._layers.guard:  # as during a collection
                nursery.start_soon(save)
                await trio.testing.wait_all_tasks_blocked()
                assert not archives
            with trio.fail_after(5):
                while not archives:
                    await trio.lowlevel.checkpoint()
        await archives[0].aclose()


@pytest.mark.parametrize("damage", ["flip", "short", "long", "empty"])
def test_save_of_a_damaged_layer_ends_the_stream_with_an_error(tmp_path: Path, damage: str) -> None:
    @on(tmp_path, BOTH)
    async def _(fixture: ImagesFixture) -> None:
        whole = await saved(fixture, "a:x")
        blob = fixture.images.resolve("a:x").layers[0].blob
        path = Path(fixture.images._content.path(blob))
        right = path.read_bytes()
        flipped = bytearray(right)
        flipped[-600] ^= 1
        path.write_bytes({"flip": flipped, "short": right[:-1], "long": right + b"x", "empty": b""}[damage])
        got: list[bytes] = []
        with pytest.raises(DamagedBlob, match=f"cannot read blob {blob}: its content is damaged"):
            archive = await opened(fixture, "a:x")
            while True:
                got.append(await anext(archive))
        await archive.aclose()
        with pytest.raises(tarfile.ReadError):
            members(b"".join(got))
        assert not fixture.images._content.has(blob)
        assert os.listdir(f"{fixture.root}/content/quarantine") == [blob[7:]]
        with pytest.raises(DriverError, match="is not in the content store; pull or load it again"):
            await opened(fixture, "a:x")
        await load(fixture, BOTH)
        assert await saved(fixture, "a:x") == whole
        assert fixture.unpacker.count == 3, "its files were never unpacked again"


def test_saved_archive_contains_the_index_but_only_the_stored_manifests(tmp_path: Path) -> None:
    mine, other = image([TOP], oci=True), image([TOP], oci=True, platform={"os": "linux", "architecture": "riscv64"})
    whole = index([other, mine], oci=True)
    made = Image(whole, mine.config, (*mine.layers, mine.manifest))

    @on(tmp_path, oci_archive({"docker.io/library/c:x": made}))
    async def _(fixture: ImagesFixture) -> None:
        found = members(await saved(fixture, "c:x"))
        assert json.loads(found["index.json"])["manifests"][0]["digest"] == whole.digest
        there = {whole.digest, mine.manifest.digest, mine.config.digest, mine.layers[0].digest}
        assert {name for name in found if name.startswith("blobs/")} == {f"blobs/sha256/{digest[7:]}" for digest in there}
        alone = members(await saved(fixture, mine.id))
        assert json.loads(alone["index.json"])["manifests"][0]["digest"] == mine.manifest.digest
