"""Registries with misleading answers: rate limits, mounts that do not happen, tokens from other hosts, wrong upload
locations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.integration import push_fixture as pushes
from tests.integration import test_registry_pull as pulls
from tests.integration import test_registry_push_failures as failures
from tests.integration.push_fixture import pushed
from tests.integration.test_registry_pull import APP, BASE, challenge, error_of, pulled
from tests.registry.fakes import ImagesFixture
from tests.registry.hostile import Answer, Handler, Hostile, redirect, replace, serving, status
from tests.registry.receiving import PushHandler, Receiving, cut, hang, lie, refuse, reply

from orlop_engine.images.registry_auth import Credentials
from orlop_sdk import OrlopError

ME = Credentials("me", "secret")
TOKEN = replace(b'{"token":"t0k"}')

# --- pull: limited rates ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["v1", BASE.digest, APP.config.digest])
def test_a_pull_waits_as_long_as_the_registry_asks(tmp_path: Path, what: str) -> None:
    async def check(images: ImagesFixture, registry: Hostile) -> None:
        registry.misbehave(what, *[status(429, "TOOMANYREQUESTS", "slow", Retry_After="3")] * 2)
        records = await pulled(images, registry)
        assert not error_of(records)
        waits = [one["status"] for one in records if one.get("status", "").startswith("Retrying in 3")]
        assert len(waits) == (2 if what == BASE.digest else 0), "of layers, clients are told"
        assert len(registry.paths(what)) == 3

    pulls.run(tmp_path, check)


@pytest.mark.parametrize(
    ("after", "asked"), [("3", 3), ("3600", 1), ("Wed, 21 Oct 2026 07:28:00 GMT", 1), ("-1", 1), ("x", 1)]
)
def test_a_pull_does_not_wait_for_ever(tmp_path: Path, after: str, asked: int) -> None:
    async def check(images: ImagesFixture, registry: Hostile) -> None:
        registry.misbehave("v1", *[status(429, "TOOMANYREQUESTS", "slow", Retry_After=after)] * 99)
        with pytest.raises(OrlopError, match="toomanyrequests: slow"):
            await pulled(images, registry)
        assert len(registry.paths("/v1")) == asked and images.is_empty()

    pulls.run(tmp_path, check)


# --- pull: tokens -------------------------------------------------------------------------------------------------------


def test_pull_fails_if_the_registry_refuses_every_token(tmp_path: Path) -> None:
    async def check(images: ImagesFixture, registry: Hostile) -> None:
        registry.ping = challenge(f"http://{registry.host}/token")
        registry.misbehave("token", *[TOKEN] * 99)
        registry.misbehave("v1", *[challenge(f"http://{registry.host}/token")] * 99)
        with pytest.raises(OrlopError, match="unauthorized: authentication required"):
            await pulled(images, registry, credentials=ME)
        assert len(registry.requests) < 10 and images.is_empty()

    pulls.run(tmp_path, check)


def test_credentials_are_not_sent_to_addresses_to_which_a_token_service_redirects(tmp_path: Path) -> None:
    """As with Docker, a token service gets the credentials of the registry that names the service. Credentials are not sent
    to addresses to which the service redirects, and the service's token is sent only to the registry."""

    async def check(images: ImagesFixture, registry: Hostile) -> None:
        with serving() as service, serving() as third:
            registry.ping = challenge(f"http://{service.host}/token")
            service.misbehave("token", TOKEN)
            registry.misbehave(BASE.digest, redirect(f"http://{third.host}/v2/app/blobs/{BASE.digest}"))
            third.add("app", "v1", APP)
            assert not error_of(await pulled(images, registry, credentials=ME))
            assert [h["authorization"][:6] for _, _, h in service.requests] == ["Basic "]
            assert {h["authorization"] for _, path, h in registry.requests if path != "/v2/"} == {"Bearer t0k"}
            assert [h.get("authorization") for _, _, h in third.requests] == [None]

    pulls.run(tmp_path, check)


def half(stay: bool) -> Answer:
    """Send a part of a token, and then nothing. After that, the connection stays open or is closed."""

    def answer(handler: Handler, _: object) -> None:
        handler.send(200, b'{"token":"t', length=100)
        handler.wfile.flush()
        if stay:
            handler.registry.gate.wait(30)
        handler.close_connection = True

    return answer


SERVICES: list[tuple[str, Answer, str]] = [
    ("stalls", half(True), "the registry stopped sending"),
    ("breaks off", half(False), "unexpected EOF"),
    ("redirects", redirect("http://127.0.0.1:1/token"), "received unexpected HTTP status: 307"),
    ("fails", status(500), "received unexpected HTTP status: 500"),
    ("limits", status(429, "TOOMANYREQUESTS", "slow"), "toomanyrequests: slow"),
    ("asks again", challenge("http://127.0.0.1:1/token"), "unauthorized"),
    ("a token that is no header", replace(b'{"token":"a\\r\\nX-Evil: 1"}'), "did not include a token"),
]


@pytest.mark.parametrize(("answer", "message"), [case[1:] for case in SERVICES], ids=[case[0] for case in SERVICES])
def test_failure_of_a_token_service_is_reported(tmp_path: Path, answer: Answer, message: str) -> None:
    async def check(images: ImagesFixture, registry: Hostile) -> None:
        with serving() as service:
            registry.ping = challenge(f"http://{service.host}/token")
            service.misbehave("token", *[answer] * 99)
            with pytest.raises(OrlopError, match=message):
                await pulled(images, registry, credentials=ME)
            assert not any("x-evil" in headers for _, _, headers in registry.requests) and images.is_empty()

    pulls.run(tmp_path, check)


# --- push ---------------------------------------------------------------------------------------------------------------


def mounts_nothing(handler: PushHandler) -> None:
    """Answers that the blob was mounted, but does not mount it."""
    digest = handler.query["mount"]
    handler.send(201, b"", {"Location": f"/v2/two/blobs/{digest}", "Docker-Content-Digest": digest})


MOUNTS: list[tuple[str, Callable[[PushHandler], None]]] = [
    ("mounts nothing", mounts_nothing),
    ("mounts another", lie(Docker_Content_Digest="sha256:" + "0" * 64)),
    ("forgets the upload it started", reply(202, Location="/v2/two/blobs/uploads/999")),
    ("leads to a file", reply(202, Location="file:///etc/passwd")),
    ("fails", refuse(500)),
    ("does not know the other repository", refuse(404, "NAME_UNKNOWN", "what?")),
]


@pytest.mark.parametrize("answer", [case[1] for case in MOUNTS], ids=[case[0] for case in MOUNTS])
def test_blob_is_uploaded_if_the_registry_does_not_mount_it(tmp_path: Path, answer: Any) -> None:
    async def check(images: ImagesFixture, registry: Receiving) -> None:
        await pushed(images, registry)
        await images.images.tag(f"{registry.host}/app:v1", f"{registry.host}/two", "v1")
        registry.script("POST", *[answer] * 99, path="mount=")
        assert not error_of(await pushed(images, registry, "two:v1"))
        registry.pushed("two", "v1")
        assert not registry.uploads

    pushes.run(tmp_path, check, max_concurrent_uploads=1)


ASTRAY = ["gopher://127.0.0.1/x", "//", "http://", "http://127.0.0.1:99999/x", "/" + "x" * (17 << 10), "http://[::1/x"]


@pytest.mark.parametrize("location", ASTRAY, ids=["scheme", "empty host", "no host", "port", "long", "bracket"])
@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_upload_without_a_valid_location_is_refused(tmp_path: Path, method: str, location: str) -> None:
    async def check(images: ImagesFixture, registry: Receiving) -> None:
        registry.script(method, *[reply(202, Location=location)] * 99)
        records = await pushed(images, registry)
        assert error_of(records) and not any("aux" in one for one in records)
        registry._scripts.clear()
        assert not error_of(await pushed(images, registry))

    pushes.run(tmp_path, check, max_concurrent_uploads=1)


PUSH_RECOVERS: list[tuple[str, str, list[Any], str]] = [
    ("fails at the end of an upload", "PUT", [refuse(503, Retry_After="2")], "uploads"),
    ("fails in the middle, in turns", "PATCH", [cut(1 << 20), refuse(500), cut(1 << 19), refuse(502)], ""),
    ("limits the rate of parts", "PATCH", [refuse(429, "TOOMANYREQUESTS", "slow", Retry_After="2")], ""),
    ("limits the rate of ends", "PUT", [refuse(429, Retry_After="2")], "uploads"),
    ("limits the rate of look-ups", "HEAD", [refuse(429, Retry_After="2")], "/blobs/"),
    ("limits the rate of checks", "HEAD", [refuse(429, Retry_After="2")], "manifests"),
    ("stalls at the end of an upload", "PUT", [hang()], "uploads"),
]


@pytest.mark.parametrize(
    ("method", "answers", "path"), [case[1:] for case in PUSH_RECOVERS], ids=[case[0] for case in PUSH_RECOVERS]
)
def test_push_recovers_from_temporary_failures_of_the_registry(
    tmp_path: Path, method: str, answers: list[Any], path: str
) -> None:
    failures.test_push_recovers_from_temporary_failures(tmp_path, method, answers, path)


def test_push_fails_if_the_registry_only_claims_to_have_a_blob(tmp_path: Path) -> None:
    """As in Docker, the registry's answers about blobs are trusted. When it refuses the manifest, the push fails with the
    registry's error."""

    async def check(images: ImagesFixture, registry: Receiving) -> None:
        registry.script("HEAD", *[reply(200)] * 2, path="/blobs/")
        registry.script("PUT", refuse(400, "MANIFEST_BLOB_UNKNOWN", "no such blob"), path="manifests")
        records = await pushed(images, registry)
        assert error_of(records) == "manifest blob unknown: no such blob"
        assert not images.images.all()[0].repo_digests
        registry._scripts.clear()
        assert not error_of(await pushed(images, registry)), "what it claimed is not remembered"
        registry.pushed("app", "v1")

    pushes.run(tmp_path, check, max_concurrent_uploads=1)


def test_pull_by_digest_detects_a_changed_pushed_image(tmp_path: Path) -> None:
    """The push has succeeded. Later, the registry serves another manifest or layer."""

    async def check(images: ImagesFixture, registry: Receiving) -> None:
        assert not error_of(await pushed(images, registry))
        digest = registry.pushed("app", "v1").digest
        await images.images.remove(f"{registry.host}/app:v1", force=True)
        manifest = registry.manifests["app", digest]
        registry.manifests["app", digest] = type(manifest)(manifest.data + b" ", manifest.media_type)
        with pytest.raises(OrlopError, match=f"manifest verification failed for digest {digest}"):
            await pulled(images, registry, tag=digest)
        registry.manifests["app", digest] = manifest
        (key, data) = next((key, data) for key, data in registry.blobs.items() if len(data) > 1000)
        registry.blobs[key] = data[:-1] + bytes([data[-1] ^ 1])
        assert "verification failed for digest" in error_of(await pulled(images, registry, tag=digest))
        assert not images.images.all()
        registry.blobs[key] = data
        assert not error_of(await pulled(images, registry, tag=digest))
        await trio.lowlevel.checkpoint()

    pushes.run(tmp_path, check)
