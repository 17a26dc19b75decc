"""Pulls from faulty registries (wrong content, broken connections, stalls, refusals, redirects): a clear error, nothing
left, and a retry succeeds."""

from __future__ import annotations

import json
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from tests.registry import Image, blob, image, index, layer
from tests.registry.build import OCI_MANIFEST
from tests.registry.fakes import DirectoryStorage, ImagesFixture, Unpacker, drain, open_images
from tests.registry.hostile import (
    Answer,
    Hostile,
    endless,
    flip,
    hold,
    redirect,
    replace,
    serving,
    stall,
    status,
    truncate,
)

from orlop_engine.images import documents, platforms
from orlop_engine.images.archive_save import SaveRequest
from orlop_engine.images.content import DamagedBlob
from orlop_engine.images.pull import PullRequest
from orlop_engine.images.references import with_tag_or_digest
from orlop_engine.images.registry_auth import Credentials
from orlop_sdk import OrlopError

# Not compressible, so that a layer takes many reads
NOISE = b"".join(documents.digest(b"%d" % n).encode() for n in range(8000))
BASE = layer({"etc/": None, "etc/base": NOISE}, compression="none")
TOP = layer({"hello": b"hi"})
APP = image([BASE, TOP], config={"Env": ["A=b"], "Labels": {"who": "me"}})


def request(host: str, name: str = "app", tag: str = "v1", **more: Any) -> PullRequest:
    return PullRequest(with_tag_or_digest(f"{host}/{name}", tag), **more)


async def pulled(images: ImagesFixture, registry: Hostile, **more: Any) -> list[dict[str, Any]]:
    return await drain(images.images.pull(request(registry.host, **more)))


def error_of(records: list[dict[str, Any]]) -> str:
    return str(records[-1].get("error", ""))


def run(tmp_path: Path, test: Callable[[ImagesFixture, Hostile], Awaitable[None]], **options: Any) -> None:
    """Run with one image service, and one registry that has APP as app:v1."""

    async def main() -> None:
        with serving() as registry:
            registry.add("app", "v1", APP)
            with trio.fail_after(150):
                async with open_images(str(tmp_path), **options) as images:
                    await test(images, registry)

    trio.run(main)


def statuses(records: list[dict[str, Any]], part: str) -> list[str]:
    return [record["status"] for record in records if record.get("id", "").startswith(part)]


def test_pull_fetches_a_layer_again_after_a_save_has_found_it_damaged(tmp_path: Path) -> None:
    async def check(images: ImagesFixture, registry: Hostile) -> None:
        await pulled(images, registry)
        name = f"{registry.host}/app:v1"
        path = Path(images.root, "content/blobs/sha256", BASE.digest[7:])
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        archive = await images.images.save(SaveRequest((name,)))
        with pytest.raises(DamagedBlob):
            async for _ in archive:
                pass
        await archive.aclose()
        registry.requests.clear()
        assert not error_of(await pulled(images, registry))
        assert len(registry.paths(BASE.digest)) == 1 and not registry.paths(TOP.digest), "only what is missing"
        assert path.read_bytes() == BASE.data and images.unpacker.count == 2, "nothing is unpacked again"

    run(tmp_path, check)


def test_pull_prints_the_messages_of_docker(tmp_path: Path) -> None:
    async def check(images: ImagesFixture, registry: Hostile) -> None:
        records = await pulled(images, registry)
        assert records[0] == {"status": "Pulling from app", "id": "v1"}
        for part in (BASE, TOP):
            states = statuses(records, part.digest[7:19])
            quiet = [state for state in states if state not in ("Downloading", "Extracting")]
            assert quiet == ["Pulling fs layer", "Verifying Checksum", "Download complete", "Pull complete"]
        assert records[-2:] == [
            {"status": f"Digest: {APP.manifest.digest}"},
            {"status": f"Status: Downloaded newer image for {registry.host}/app:v1"},
        ]
        found = images.images.resolve(f"{registry.host}/app:v1")
        assert (found.id, found.config.env, found.size) == (APP.id, ["A=b"], len(NOISE) + 2)
        assert found.repo_digests == [f"{registry.host}/app@{APP.manifest.digest}"]
        assert found.chain_ids == tuple(documents.chain_ids([BASE.diff_id, TOP.diff_id]))
        assert images.actions() == [("pull", f"{registry.host}/app:v1", f"{registry.host}/app")]
        again = await pulled(images, registry)
        assert [record["status"] for record in again] == [
            "Pulling from app",
            f"Digest: {APP.manifest.digest}",
            f"Status: Image is up to date for {registry.host}/app:v1",
        ]

    run(tmp_path, check)


BAD_LAYER: list[tuple[str, list[Answer], str]] = [
    ("another content", [flip()], f"filesystem layer verification failed for digest {BASE.digest}"),
    ("another length", [replace(b"short")] * 9, "unexpected EOF"),
    ("breaks off", [truncate(10)] * 9, "unexpected EOF"),
    ("stalls", [stall(1000)] * 9, "the registry stopped sending"),
    ("endless", [endless()], "the registry sends more than its"),
    ("gone", [status(404, "BLOB_UNKNOWN", "gone")], "blob unknown: gone"),
    ("denied", [status(403, "DENIED", "no")], "pull access denied for"),
    ("too many", [status(429, "TOOMANYREQUESTS", "slow")], "toomanyrequests: slow"),
    ("broken", [status(500)] * 9, "received unexpected HTTP status: 500 Internal Server Error"),
    ("no JSON", [status(400)], "error parsing HTTP 400 response body"),
    ("redirects for ever", [redirect("/v2/app/blobs/" + BASE.digest)] * 99, "stopped after 10 redirects"),
    (
        "redirects to a file",
        [redirect("file:///etc/passwd")],
        'Get "file:///etc/passwd": unsupported protocol scheme "file"',
    ),
]


@pytest.mark.parametrize(("answers", "message"), [case[1:] for case in BAD_LAYER], ids=[case[0] for case in BAD_LAYER])
def test_pull_of_a_damaged_layer_fails_and_leaves_nothing(tmp_path: Path, answers: list[Answer], message: str) -> None:
    async def check(images: ImagesFixture, registry: Hostile) -> None:
        registry.misbehave(BASE.digest, *answers)
        records = await pulled(images, registry)
        assert message in error_of(records)
        assert not images.images.all() and images.actions() == []
        # Bytes that arrived before the connection broke are kept for the next attempt, until a prune
        await images.images.prune({})
        assert images.is_empty()
        registry.misbehave(BASE.digest)
        assert not error_of(await pulled(images, registry))
        assert images.images.resolve(f"{registry.host}/app:v1").id == APP.id

    run(tmp_path, check)


BOMB = b"[" * (4 << 20) + b" "
BAD_MANIFEST: list[tuple[str, list[Answer], str]] = [
    ("unauthorized", [status(401, "UNAUTHORIZED", "who?")], "unauthorized: who?"),
    ("denied", [status(403, "DENIED", "no")], "repository does not exist or may require 'docker login': denied: no"),
    ("unknown", [status(404, "MANIFEST_UNKNOWN", "what?")], "app:v1 not found: manifest unknown: what?"),
    ("no repository", [status(404, "NAME_UNKNOWN", "what?")], "app not found: name unknown: what?"),
    ("rate", [status(429)], "toomanyrequests: too many requests"),
    ("broken", [status(502)], "received unexpected HTTP status: 502 Bad Gateway"),
    ("bomb", [replace(BOMB, OCI_MANIFEST)], "the answer is larger than 4194304 bytes"),
    ("endless", [endless()], "the answer is larger than 4194304 bytes"),
    ("stalls", [stall(10)], "the registry stopped sending"),
    ("breaks off", [truncate(10)], "unexpected EOF"),
    ("loop", [redirect("/v2/app/manifests/v1")] * 99, "stopped after 10 redirects"),
]


@pytest.mark.parametrize(("answers", "message"), [case[1:] for case in BAD_MANIFEST], ids=[case[0] for case in BAD_MANIFEST])
def test_pull_of_a_bad_manifest_fails_with_a_clear_error(tmp_path: Path, answers: list[Answer], message: str) -> None:
    async def check(images: ImagesFixture, registry: Hostile) -> None:
        registry.misbehave("v1", *answers)
        with pytest.raises(OrlopError) as caught:
            await pulled(images, registry)
        assert message in str(caught.value)
        assert images.is_empty()
        registry.misbehave("v1")
        assert not error_of(await pulled(images, registry))

    run(tmp_path, check)


def with_manifest(**changes: Any) -> Image:
    body = {**json.loads(APP.manifest.data), **changes}
    return Image(blob(body, APP.manifest.media_type), APP.config, APP.layers, APP.platform)


def test_manifests_and_configurations_that_do_not_match_are_refused(tmp_path: Path) -> None:
    lie = image([BASE, TOP], rootfs={"type": "layers", "diff_ids": [BASE.diff_id, BASE.diff_id]})
    few = image([BASE, TOP], rootfs={"type": "layers", "diff_ids": [BASE.diff_id]})
    deep = image([TOP] * 17)
    odd = Image(blob(b"no JSON", APP.config.media_type), blob(b"no JSON", APP.config.media_type), APP.layers)
    windows = image([TOP], platform={"os": "windows", "architecture": "amd64"})
    config = {**APP.config.descriptor, "digest": documents.digest(b"not this")}
    cases = {
        "schema1": (with_manifest(schemaVersion=1), "schema 1"),
        "page": (Image(blob(b"<html>", "text/html"), APP.config, APP.layers), "cannot read manifest"),
        "artifact": (with_manifest(config={**config, "mediaType": "application/x"}), "not a container image"),
        "missing": (with_manifest(config=config), "not here"),
        "lie": (lie, "its diffID is"),
        "few": (few, "layers from manifest don't match image configuration"),
        "deep": (deep, "max depth exceeded"),
        "windows": (windows, "operating system is not supported"),
    }

    async def check(images: ImagesFixture, registry: Hostile) -> None:
        for name, (bad, message) in cases.items():
            registry.add(name, "v1", bad)
            assert message in error_of(await pulled(images, registry, name=name)), name
            assert images.is_empty(), name
        bad_config = {**APP.config.descriptor, "digest": odd.config.digest, "size": len(odd.config.data)}
        registry.add("odd", "v1", Image(with_manifest(config=bad_config).manifest, odd.config, APP.layers))
        assert "cannot read image configuration" in error_of(await pulled(images, registry, name="odd"))
        assert images.is_empty()

    run(tmp_path, check)


def test_manifest_that_is_pulled_by_digest_is_verified(tmp_path: Path) -> None:
    async def check(images: ImagesFixture, registry: Hostile) -> None:
        wanted = APP.manifest.digest
        registry.misbehave(wanted, replace(with_manifest(layers=[]).manifest.data))
        with pytest.raises(OrlopError, match=f"manifest verification failed for digest {wanted}"):
            await pulled(images, registry, tag=wanted)
        assert images.is_empty()
        records = await pulled(images, registry, tag=wanted)
        assert records[0]["id"] == f"{registry.host}/app@{wanted}"
        found = images.images.resolve(f"{registry.host}/app@{wanted}")
        assert (found.id, found.repo_tags) == (APP.id, [])

    run(tmp_path, check)


def test_pull_selects_the_image_of_the_requested_platform(tmp_path: Path) -> None:
    here = platforms.host()
    mine = image([TOP], platform={"os": "linux", "architecture": here.architecture})
    other = image([BASE], platform={"os": "linux", "architecture": "s390x"})

    async def check(images: ImagesFixture, registry: Hostile) -> None:
        registry.add("multi", "x", mine)
        registry.add("multi", "y", other)
        both = index([other, mine], oci=True, attestation=True)
        registry.add_manifest("multi", "v1", both)
        await pulled(images, registry, name="multi")
        found = images.images.resolve(f"{registry.host}/multi:v1")
        assert found.id == mine.id
        assert found.repo_digests == [f"{registry.host}/multi@{both.digest}"]
        await pulled(images, registry, name="multi", platform=platforms.parse("linux/s390x"))
        assert images.images.resolve(f"{registry.host}/multi:v1").id == mine.id, "both have the name now"
        assert images.images.resolve(f"{registry.host}/multi:v1", newest=True).id == other.id
        assert images.images.resolve(f"{registry.host}/multi:v1", platforms.parse("linux/s390x")).id == other.id
        records = await pulled(images, registry, name="multi", platform=platforms.parse("linux/riscv64"))
        assert error_of(records) == "no matching manifest for linux/riscv64 in the manifest list entries"
        single = await pulled(images, registry, name="multi", tag="y", platform=platforms.parse("linux/riscv64"))
        assert "does not match the specified platform: wanted linux/riscv64, actual: linux/s390x" in error_of(single)

    run(tmp_path, check)


def test_broken_download_is_resumed_with_a_range_request(tmp_path: Path) -> None:
    async def check(images: ImagesFixture, registry: Hostile) -> None:
        registry.misbehave(BASE.digest, truncate(300_000), truncate(100_000))
        records = await pulled(images, registry)
        assert not error_of(records)
        ranges = [headers.get("range") for _, path, headers in registry.requests if path.endswith(BASE.digest)]
        assert ranges == [None, "bytes=300000-", "bytes=400000-"]
        states = statuses(records, BASE.digest[7:19])
        assert [state for state in states if state.startswith("Retrying")][:2] == [
            "Retrying in 5 seconds",
            "Retrying in 4 seconds",
        ]
        assert "Retrying in 1 second" in states

    run(tmp_path, check)


def test_broken_download_starts_again_if_the_registry_does_not_support_ranges(tmp_path: Path) -> None:
    async def check(images: ImagesFixture, registry: Hostile) -> None:
        registry.ranges = False
        registry.misbehave(BASE.digest, truncate(300_000))
        assert not error_of(await pulled(images, registry))

    run(tmp_path, check)


def test_wrong_bytes_of_an_interrupted_download_are_discarded(tmp_path: Path) -> None:
    async def check(images: ImagesFixture, registry: Hostile) -> None:
        path = tmp_path / "content" / "ingest" / BASE.digest[7:]
        path.write_bytes(b"x" * 300_000)
        assert not error_of(await pulled(images, registry))
        path.write_bytes(b"y" * (len(TOP.data) + 9))
        assert images.partials() == {BASE.digest[7:]}

    run(tmp_path, check)


def test_pull_is_resumed_after_a_kill_of_the_daemon(tmp_path: Path) -> None:
    async def main() -> None:
        storage = DirectoryStorage(str(tmp_path / "layers"))
        with serving() as registry, trio.fail_after(150):
            registry.add("app", "v1", APP)
            registry.misbehave(BASE.digest, truncate(300_000), stall(0))
            async with open_images(str(tmp_path), storage=storage) as images:
                seen = b""
                async for piece in images.images.pull(request(registry.host)):
                    seen += piece
                    if b"Retrying" in seen and TOP.digest[7:].encode() in b"".join(map(str.encode, images.blobs())):
                        break
            # All tasks were cancelled without cleanup, which has the same effect on files and rows as SIGKILL
            registry.requests.clear()
            registry.misbehave(BASE.digest)
            async with open_images(str(tmp_path), storage=storage) as images:
                assert images.partials() == {BASE.digest[7:]}
                assert not error_of(await pulled(images, registry))
                ranges = [h.get("range") for _, path, h in registry.requests if path.endswith(BASE.digest)]
                assert ranges == ["bytes=300000-"]
                assert not registry.paths(TOP.digest), "what was whole is not fetched again"
                assert not images.partials()

    trio.run(main)


def test_layers_are_downloaded_and_unpacked_once_for_two_pulls(tmp_path: Path) -> None:
    other = image([BASE, layer({"other": b"x"})])

    async def check(images: ImagesFixture, registry: Hostile) -> None:
        registry.add("other", "v1", other)
        release = threading.Event()
        registry.misbehave(BASE.digest, hold(release))
        results: list[str] = []

        async def one(name: str) -> None:
            progress = images.images.pull(request(registry.host, name))
            async for piece in progress:
                if b"Pulling fs layer" in piece:
                    results.append(name)
                    if len(results) == 2:
                        release.set()
                assert b"errorDetail" not in piece

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, "app")
            nursery.start_soon(one, "other")
        assert len(registry.paths(BASE.digest)) == 1
        assert images.unpacker.count == 3
        assert len(images.images.all()) == 2
        shared = await images.images.listed({}, everything=True, shared_size=True)
        assert {item.shared_size for item in shared} == {len(NOISE)}

    run(tmp_path, check)


async def waiters(images: ImagesFixture, count: int) -> None:
    while images.images._transfers._downloads._shared.waiting(BASE.digest) != count:
        await trio.testing.wait_all_tasks_blocked()


def test_client_that_disconnects_cancels_only_its_own_pull(tmp_path: Path) -> None:
    async def check(images: ImagesFixture, registry: Hostile) -> None:
        registry.add("same", "v1", APP)
        release = threading.Event()
        registry.misbehave(BASE.digest, hold(release))
        first = images.images.pull(request(registry.host))
        await first.started()
        second = images.images.pull(request(registry.host, "same"))
        await second.started()
        await waiters(images, 2)
        await first.aclose()
        await waiters(images, 1)
        release.set()
        assert not error_of(await drain(second))
        assert [found.repo_tags for found in images.images.all()] == [[f"{registry.host}/same:v1"]]
        assert len(registry.paths(BASE.digest)) == 1

    run(tmp_path, check)


def test_disconnect_during_unpacking_cancels_the_pull(tmp_path: Path) -> None:
    unpacker = Unpacker()

    async def check(images: ImagesFixture, registry: Hostile) -> None:
        unpacker.gate = trio.Event()
        progress = images.images.pull(request(registry.host))
        await progress.started()
        while not (unpacker.count and images.blobs() >= {BASE.digest[7:], TOP.digest[7:]}):
            await trio.testing.wait_all_tasks_blocked()
        assert images.storage.parents
        await progress.aclose()
        while images.storage.parents:
            await trio.testing.wait_all_tasks_blocked()
        assert not images.images.all()
        unpacker.gate.set()
        registry.requests.clear()
        assert not error_of(await pulled(images, registry))
        assert not registry.paths("/blobs/"), "the blobs were there"

    run(tmp_path, check, unpacker=unpacker)


def test_pull_of_all_tags_downloads_each_tag(tmp_path: Path) -> None:
    async def check(images: ImagesFixture, registry: Hostile) -> None:
        registry.add("app", "v2", image([TOP]))
        records = await pulled(images, registry, tag="")
        assert [record["id"] for record in records if record["status"].startswith("Pulling from")] == ["v1", "v2"]
        assert records[-1]["status"] == f"Status: Downloaded newer image for {registry.host}/app"
        assert len(images.images.all()) == 2
        assert images.actions() == [("pull", f"{registry.host}/app", f"{registry.host}/app")], "one event, as in dockerd"

    run(tmp_path, check)


def challenge(realm: str) -> Answer:
    return status(401, "UNAUTHORIZED", "", WWW_Authenticate=f'Bearer realm="{realm}",service="svc"')


def test_pull_uses_a_token_that_it_gets_from_the_token_service(tmp_path: Path) -> None:
    async def check(images: ImagesFixture, registry: Hostile) -> None:
        registry.ping = challenge(f"http://{registry.host}/token")
        registry.misbehave("token", *[replace(b'{"token":"t0k"}')] * 9)
        assert not error_of(await pulled(images, registry, credentials=Credentials("me", "secret")))
        asked = [(path, headers.get("authorization", "")) for _, path, headers in registry.requests]
        token = [path for path, proof in asked if path.startswith("/token") and proof.startswith("Basic ")]
        assert token == ["/token?account=me&scope=repository%3Aapp%3Apull&service=svc"]
        assert {proof for path, proof in asked if path.startswith("/v2/app/")} == {"Bearer t0k"}

    run(tmp_path, check)


def test_pull_fails_if_the_token_is_refused_or_missing(tmp_path: Path) -> None:
    async def check(images: ImagesFixture, registry: Hostile) -> None:
        registry.ping = challenge(f"http://{registry.host}/token")
        for answer, message in (
            (status(401, "UNAUTHORIZED", "incorrect username or password"), "unauthorized: incorrect username or password"),
            (replace(b"{}"), "authorization server did not include a token in the response"),
            (replace(b"x" * (2 << 20)), "the answer is larger than"),
        ):
            registry.misbehave("token", answer)
            with pytest.raises(OrlopError, match=message):
                await pulled(images, registry)
        registry.ping = challenge("file:///etc/passwd")
        with pytest.raises(OrlopError, match="names no token service"):
            await pulled(images, registry)
        registry.ping = status(401, "UNAUTHORIZED", "", WWW_Authenticate='Basic realm="x"')
        with pytest.raises(OrlopError, match="no basic auth credentials"):
            await pulled(images, registry)
        assert images.is_empty()

    run(tmp_path, check)


def test_credentials_are_sent_only_to_their_registry(tmp_path: Path) -> None:
    async def check(images: ImagesFixture, registry: Hostile) -> None:
        with serving() as elsewhere:
            elsewhere.add("app", "v1", APP)
            registry.ping = status(401, "UNAUTHORIZED", "", WWW_Authenticate='Basic realm="x"')
            registry.misbehave(BASE.digest, redirect(f"http://{elsewhere.host}/v2/app/blobs/{BASE.digest}?sig=1"))
            assert not error_of(await pulled(images, registry, credentials=Credentials("me", "secret")))
            assert [headers.get("authorization") for _, _, headers in elsewhere.requests] == [None]
            assert all(headers.get("authorization") for _, path, headers in registry.requests if path != "/v2/")

    run(tmp_path, check)


def test_layers_wait_if_max_concurrent_downloads_is_reached(tmp_path: Path) -> None:
    async def check(images: ImagesFixture, registry: Hostile) -> None:
        assert "Waiting" in {record["status"] for record in await pulled(images, registry)}

    run(tmp_path, check, max_concurrent_downloads=1)


def test_unusable_mirrors_are_tried_first_and_skipped(tmp_path: Path) -> None:
    async def main() -> None:
        with serving() as empty, serving() as mirror:
            mirror.add("library/app", "v1", APP)
            mirrors = (f"http://{empty.host}", f"http://{mirror.host}")
            async with open_images(str(tmp_path), registry_mirrors=mirrors) as images:
                records = await drain(images.images.pull(PullRequest(with_tag_or_digest("app", "v1"))))
                assert records[0]["status"] == "Pulling from library/app"
                assert images.images.resolve("app:v1").repo_tags == ["app:v1"]
                assert empty.paths("/manifests/")

    trio.run(main)
