"""Attestations of pulled images: a pull stores valid attestations, and leaves others out without failing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.registry import Attested, image, layer
from tests.registry.fakes import ImagesFixture, drain, open_images
from tests.registry.hostile import Answer, Hostile, flip, serving, status

from orlop_engine.images import attestation_pull, platforms
from orlop_engine.images.pull import PullRequest
from orlop_engine.images.references import parse

HERE = platforms.host()
APP = image([layer({"app": b"1"})], platform={"os": "linux", "architecture": HERE.architecture}, oci=True)
OTHER = image([layer({"other": b"1"})], platform={"os": "linux", "architecture": "s390x"}, oci=True)
Test = Callable[[ImagesFixture, Hostile], Awaitable[None]]


def run(tmp_path: Path, test: Test) -> None:
    async def main() -> None:
        with serving() as registry, trio.fail_after(30):
            async with open_images(str(tmp_path)) as images:
                await test(images, registry)

    trio.run(main)


async def pull(images: ImagesFixture, name: str) -> list[dict[str, Any]]:
    records = await drain(images.images.pull(PullRequest(parse(name))))
    assert "error" not in records[-1], records[-1]
    return records


async def shown(images: ImagesFixture, name: str) -> list[tuple[str, bool, int]]:
    """Kind, availability and bytes of each manifest of a name."""
    found = await images.images.inspect(name, manifests=True)
    assert found.manifests
    return [(one.kind, one.available, one.stored) for one in found.manifests]


def test_pull_stores_the_attestations_about_the_pulled_image(tmp_path: Path) -> None:
    async def test(images: ImagesFixture, registry: Hostile) -> None:
        about = Attested(APP, OTHER)
        name = about.publish(registry)
        records = await pull(images, name)
        own, foreign = about.attestations
        size = sum(len(part.data) for part in (own, *about.blobs[:2]))
        mine, other, attestation, missing = await shown(images, name)
        assert (mine[1], other[1]) == (True, False)
        assert (attestation, missing) == (("attestation", True, size), ("attestation", False, 0))
        assert not registry.paths(foreign.digest), "that of the other platform is not asked for"
        assert not any(own.digest[7:19] in str(record) for record in records)
        (found,) = await images.images.attestations(name, None, (), statements=True)
        assert found.statement is not None and bytes(found.statement) == about.blobs[1].data
        before = len(registry.requests)
        await pull(images, name)
        assert not [path for _, path, _ in registry.requests[before:] if own.digest in path], "once is enough"
        await images.images.remove(name)
        assert images.is_empty()

    run(tmp_path, test)


def test_second_pull_adds_attestations_that_the_first_pull_could_not_get(tmp_path: Path) -> None:
    async def test(images: ImagesFixture, registry: Hostile) -> None:
        about = Attested(APP, OTHER)
        name = about.publish(registry)
        registry.misbehave(about.attestations[0].digest, status(404, "MANIFEST_UNKNOWN"))
        await pull(images, name)
        assert [one[1] for one in await shown(images, name)] == [True, False, False, False]
        assert "Image is up to date" in (await pull(images, name))[-1]["status"]
        assert [one[1] for one in await shown(images, name)] == [True, False, True, False]

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("about", "part", "answers"),
    [
        (Attested(APP, OTHER), "manifest", [status(404, "MANIFEST_UNKNOWN")]),
        (Attested(APP, OTHER), "manifest", [flip()]),
        (Attested(APP, OTHER), "statement", [status(404, "BLOB_UNKNOWN")]),
        (Attested(APP, OTHER), "statement", [flip(), flip()]),
        (Attested(APP, OTHER, size_off=1), "manifest", []),
        (Attested(APP, OTHER, claims=attestation_pull._MAX_BYTES), "manifest", []),
    ],
)
def test_invalid_attestation_is_ignored(tmp_path: Path, about: Attested, part: str, answers: list[Answer]) -> None:
    async def test(images: ImagesFixture, registry: Hostile) -> None:
        name = about.publish(registry)
        target = about.attestations[0] if part == "manifest" else about.blobs[1]
        if answers:
            registry.misbehave(target.digest, *answers)
        await pull(images, name)
        assert [one[1] for one in await shown(images, name)] == [True, False, False, False]
        assert images.images.resolve(name).record.attachments == ()
        kept = {APP.manifest, APP.config, *APP.layers, about.index}
        assert images.blobs() == {one.digest[7:] for one in kept} and not images.partials()
        statement = about.blobs[1].digest
        if about.blobs[1].data and not answers:
            assert not registry.paths(statement), "nothing is fetched that will not be kept"

    run(tmp_path, test)


def test_number_of_attestations_of_an_image_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(images: ImagesFixture, registry: Hostile) -> None:
        about = Attested(APP, OTHER)
        name = about.publish(registry)
        await pull(images, name)
        assert images.images.resolve(name).record.attachments == ()

    monkeypatch.setattr(attestation_pull, "_MOST", 0)
    run(tmp_path, test)


class Restricted:
    """A client with all rights on its own images only."""

    owner = "unix:///x"

    def may_use(self, image: Any) -> bool:
        return bool(image.record.owner == self.owner)

    def may_take(self, name: Any, image: Any, owner: str) -> bool:
        return True

    def may_delete(self, image: Any) -> bool:
        return True

    def denied(self, doing: str) -> Exception:
        return PermissionError(doing)


@pytest.mark.parametrize("answers", [[], [status(404, "BLOB_UNKNOWN")], [flip()]])
def test_restricted_clients_registry_must_serve_all_content_of_an_attestation(tmp_path: Path, answers: list[Answer]) -> None:
    """The registry must serve even content that the daemon has stored. Otherwise the client's image would get content of
    another client."""

    async def test(images: ImagesFixture, registry: Hostile) -> None:
        about = Attested(APP, OTHER)
        secret = about.blobs[1]
        assert await images.images._content.put(secret.data) == secret.digest
        with images.images._image_store.leases.hold() as lease:
            await images.images._image_store.hold(lease, blob=secret.digest)
            name = about.publish(registry)
            registry.misbehave(secret.digest, *answers)
            request = PullRequest(parse(name), policy=Restricted())  # type: ignore[arg-type]
            records = await drain(images.images.pull(request))
        assert "error" not in records[-1]
        assert bool(images.images.resolve(name).record.attachments) == (not answers)
        assert registry.paths(secret.digest)

    run(tmp_path, test)
