"""Mirrors of registries by `hosts.toml`: real docker-registry processes, and scripted servers for faults."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.registry import Registry, image, index, layer, push, push_blob, push_index, push_manifest, running
from tests.registry.fakes import FAST, ImagesFixture, drain, open_images
from tests.registry.hostile import Hostile, flip, redirect, serving, status, truncate
from tests.registry.tls import certificate

from orlop_engine.config import Config
from orlop_engine.images.pull import PullRequest
from orlop_engine.images.references import parse
from orlop_engine.images.registry_auth import Credentials
from orlop_engine.system import login
from orlop_sdk import DriverError, NotFound, OrlopError
from orlop_sdk.testing.ports import free_port

BASE, TOP = layer({"base": b"x" * 5000}, compression="none"), layer({"hello": b"hi"})
APP = image([BASE, TOP])
OTHER = image([layer({"other": b"o"})])
NAME = "r.example:5000"


def configure(root: Path, text: str, host: str = NAME) -> None:
    path = root / "certs.d" / host / "hosts.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def run(root: Path, test: Callable[[ImagesFixture], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        with trio.fail_after(150):
            async with open_images(str(root / "data"), certificates=(str(root / "certs.d"),), **options) as images:
                await test(images)

    trio.run(main)


async def pull(images: ImagesFixture, name: str, **more: Any) -> list[dict[str, Any]]:
    records = await drain(images.images.pull(PullRequest(parse(name), **more)))
    if "error" in records[-1]:
        raise DriverError(records[-1]["error"])
    return records


async def pulled(images: ImagesFixture, name: str, **more: Any) -> str:
    await pull(images, name, **more)
    return images.images.resolve(name).id


def manifests_and_blobs(server: Hostile) -> list[str]:
    return [path.partition("?")[0].rpartition("/")[2] for path in server.paths("/app/")]


def test_mirrors_are_tried_before_the_registry(tmp_path: Path) -> None:
    """Three docker-registry processes: a mirror that is down, a mirror without the image, and the registry itself."""
    with running() as empty, running() as upstream:
        push(empty.host, "other", "v1", OTHER)
        push(upstream.host, "app", "v1", APP)
        hosts = [f"http://127.0.0.1:{free_port()}", f"http://{empty.host}"]
        tables = "\n".join(f'[host."{url}"]' for url in hosts)
        configure(tmp_path, f'server = "http://{upstream.host}"\n{tables}\n')

        async def test(images: ImagesFixture) -> None:
            assert await pulled(images, f"{NAME}/app:v1") == APP.id
            assert await pulled(images, f"{NAME}/other:v1") == OTHER.id, "the second mirror has it"
            with pytest.raises(NotFound, match=r"manifest for r\.example:5000/none:v1 not found"):
                await pulled(images, f"{NAME}/none:v1")
            assert images.images.resolve(f"{NAME}/app:v1").repo_digests == [f"{NAME}/app@{APP.manifest.digest}"]

        run(tmp_path, test)


def test_a_default_mirror_serves_every_registry(tmp_path: Path) -> None:
    with running() as mirror:
        push(mirror.host, "a/app", "v1", APP)
        push(mirror.host, "library/app", "v1", OTHER)
        configure(tmp_path, f'server = "http://{mirror.host}"', "_default")

        async def test(images: ImagesFixture) -> None:
            assert await pulled(images, "one.example/a/app:v1") == APP.id
            assert await pulled(images, "app:v1") == OTHER.id

        run(tmp_path, test)


def partial_mirror(mirror: Registry) -> None:
    """A mirror with the manifest and one of two layers, like a mirror whose storage was cleaned up."""
    push(mirror.host, "app", "", APP)
    data = Path(mirror.root) / "data/docker/registry/v2/repositories/app/_layers/sha256" / TOP.digest[7:]
    for path in data.iterdir():
        path.unlink()
    data.rmdir()


def test_blob_missing_on_a_mirror_is_fetched_from_the_registry(tmp_path: Path) -> None:
    with running() as mirror, running() as upstream:
        partial_mirror(mirror)
        push(upstream.host, "app", "v1", APP)
        configure(tmp_path, f'server = "http://{upstream.host}"\n[host."http://{mirror.host}"]\ncapabilities = ["pull"]')

        async def test(images: ImagesFixture) -> None:
            assert await pulled(images, f"{NAME}/app:v1") == APP.id

        run(tmp_path, test)


def test_all_tags_are_pulled_from_a_mirror(tmp_path: Path) -> None:
    with running() as mirror:
        push(mirror.host, "app", "v1", APP)
        push(mirror.host, "app", "v2", OTHER)
        configure(tmp_path, f'server = "http://127.0.0.1:{free_port()}"\n[host."http://{mirror.host}"]')

        async def test(images: ImagesFixture) -> None:
            await pull(images, f"{NAME}/app")
            assert len(images.images.all()) == 2

        run(tmp_path, test)


def test_mirror_without_the_capability_resolve_is_not_asked_for_tags(tmp_path: Path) -> None:
    """A mirror without `resolve` is never asked for a tag. The mirror is only asked for content, by the digests that the
    registry names."""
    several = index([APP, OTHER])
    with serving() as mirror, serving() as push_only, running() as upstream:
        mirror.add("app", "v1", OTHER)  # a wrong answer: the tag means another image
        for one in (APP, OTHER):
            mirror.add("app", one.manifest.digest, one)
        push_index(upstream.host, "app", "v1", several, (APP, OTHER))
        configure(
            tmp_path,
            f"""
            server = "http://{upstream.host}"
            [host."http://{push_only.host}"]
            capabilities = ["push"]
            [host."http://{mirror.host}"]
            capabilities = ["pull"]
            """,
        )

        async def test(images: ImagesFixture) -> None:
            assert await pulled(images, f"{NAME}/app:v1") == APP.id
            asked = manifests_and_blobs(mirror)
            assert "v1" not in asked
            assert {APP.manifest.digest, APP.config.digest, BASE.digest, TOP.digest} <= set(asked)
            assert push_only.requests == []

        run(tmp_path, test)


def test_pull_of_a_tag_fails_if_no_host_has_the_capability_resolve(tmp_path: Path) -> None:
    configure(tmp_path, 'server = "http://127.0.0.1:1"\ncapabilities = ["push"]')

    async def test(images: ImagesFixture) -> None:
        with pytest.raises(DriverError, match=r"no host in hosts\.toml has the capability resolve"):
            await pulled(images, f"{NAME}/app:v1")

    run(tmp_path, test)


def test_unreachable_mirror_is_not_tried_again_for_a_while(tmp_path: Path) -> None:
    with serving() as mirror, serving() as upstream:
        for server in (mirror, upstream):
            for tag in ("v1", "v2", "v3"):
                server.add("app", tag, APP)
        mirror.ping = status(503)
        configure(tmp_path, f'server = "http://{upstream.host}"\n[host."http://{mirror.host}"]')

        async def test(images: ImagesFixture) -> None:
            assert await pulled(images, f"{NAME}/app:v1") == APP.id
            assert len(mirror.requests) == 1
            mirror.ping = None
            await pulled(images, f"{NAME}/app:v2")
            assert len(mirror.requests) == 1, "not asked again yet"
            asked = len(upstream.requests)
            await trio.sleep(0.6)  # the outage takes real time, because the servers are threads
            await pulled(images, f"{NAME}/app:v3")
            assert len(mirror.requests) > 1 and len(upstream.requests) == asked, "tried again"

        run(tmp_path, test, timeouts=replace(FAST, outage=0.5))


def test_only_host_of_a_registry_is_tried_again_after_it_was_unreachable(tmp_path: Path) -> None:
    """The only host of a registry is tried again, although it has just failed."""
    with serving() as server:
        server.add("app", "v1", APP)
        server.ping = status(503)
        configure(tmp_path, f'server = "http://{server.host}"')

        async def test(images: ImagesFixture) -> None:
            with pytest.raises(DriverError, match="503 Service Unavailable"):
                await pulled(images, f"{NAME}/app:v1")
            server.ping = None
            assert await pulled(images, f"{NAME}/app:v1") == APP.id

        run(tmp_path, test)


@pytest.mark.parametrize("answer", [flip(), truncate(100), status(404, "BLOB_UNKNOWN"), status(500)])
def test_layer_is_fetched_from_the_registry_if_the_mirror_serves_wrong_content(tmp_path: Path, answer: Any) -> None:
    with serving() as mirror, serving() as upstream:
        for server in (mirror, upstream):
            server.add("app", "v1", APP)
        mirror.misbehave(BASE.digest, *[answer] * 20)
        configure(tmp_path, f'server = "http://{upstream.host}"\n[host."http://{mirror.host}"]')

        async def test(images: ImagesFixture) -> None:
            assert await pulled(images, f"{NAME}/app:v1") == APP.id
            assert mirror.paths(BASE.digest) and upstream.paths(BASE.digest)
            assert not upstream.paths("manifests")

        run(tmp_path, test)


def test_manifest_is_fetched_from_the_registry_if_the_mirror_serves_wrong_content(tmp_path: Path) -> None:
    with serving() as mirror, serving() as upstream:
        for server in (mirror, upstream):
            server.add("app", "v1", APP)
        mirror.misbehave(APP.manifest.digest, flip())
        configure(tmp_path, f'server = "http://{upstream.host}"\n[host."http://{mirror.host}"]')

        async def test(images: ImagesFixture) -> None:
            await pull(images, f"{NAME}/app@{APP.manifest.digest}")
            assert [image.id for image in images.images.all()] == [APP.id]

        run(tmp_path, test)


def test_credentials_and_headers_are_sent_only_to_their_host(tmp_path: Path) -> None:
    with serving() as mirror, serving() as upstream:
        mirror.ping = status(401, "UNAUTHORIZED", "", WWW_Authenticate='Basic realm="x"')
        upstream.add("app", "v1", APP)
        upstream.ping = mirror.ping
        tables = f"""
            [host."http://{mirror.host}"]
            [host."http://{mirror.host}".header]
            x-secret = "of the mirror"
            [host."http://{upstream.host}"]
            [host."http://{upstream.host}".header]
            authorization = "Bearer of-the-file"
            """
        configure(tmp_path, f'server = "http://127.0.0.1:{free_port()}"\n{tables}')

        async def test(images: ImagesFixture) -> None:
            credentials = Credentials("me", "secret", server=NAME)
            assert await pulled(images, f"{NAME}/app:v1", credentials=credentials) == APP.id
            assert all("authorization" not in headers for _, _, headers in mirror.requests)
            assert all(headers.get("x-secret") == "of the mirror" for _, _, headers in mirror.requests)
            assert {headers.get("authorization") for _, _, headers in upstream.requests} == {"Bearer of-the-file"}
            assert all("x-secret" not in headers for _, _, headers in upstream.requests)
            assert all(path.endswith(f"?ns={NAME}") for _, path, _ in (*mirror.requests, *upstream.requests))

        run(tmp_path, test)


def test_headers_of_hosts_toml_are_not_sent_to_a_server_to_which_a_mirror_redirects(tmp_path: Path) -> None:
    """If a mirror redirects to a storage server, this server gets none of the headers in hosts.toml."""
    with serving() as mirror, serving() as storage:
        mirror.add("app", "v1", APP)
        storage.add("app", "v1", APP)
        mirror.misbehave(BASE.digest, redirect(f"http://{storage.host}/v2/app/blobs/{BASE.digest}"))
        configure(
            tmp_path,
            f"""
            server = "http://{mirror.host}"
            [header]
            authorization = "Bearer of-the-mirror"
            x-secret = "s"
            """,
        )

        async def test(images: ImagesFixture) -> None:
            assert await pulled(images, f"{NAME}/app:v1") == APP.id
            assert all(headers.get("x-secret") == "s" for _, _, headers in mirror.requests)
            ((_, _, headers),) = storage.requests
            assert not {"x-secret", "authorization"} & headers.keys()

        run(tmp_path, test)


def test_registry_api_below_another_path_is_used_with_override_path(tmp_path: Path) -> None:
    """With `override_path`, the API of the registry is not below /v2/, but below the path of the URL."""
    with serving() as server:
        server.add("cache/app", "v1", APP)
        configure(tmp_path, f'[host."http://{server.host}/v2/cache"]\noverride_path = true')

        async def test(images: ImagesFixture) -> None:
            server.ping = status(404)
            assert await pulled(images, f"{NAME}/app:v1") == APP.id
            assert server.requests[0][1] == f"/v2/cache/app/manifests/v1?ns={NAME}"

        run(tmp_path, test)


def test_certificates_in_hosts_toml_are_used(tmp_path: Path) -> None:
    certificate(tmp_path)
    (tmp_path / "other").mkdir()
    certificate(tmp_path / "other")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(tmp_path / "ca.pem"))
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # openssl req makes no key identifiers
    (tmp_path / "certs.d" / NAME).mkdir(parents=True)
    for name in ("ca.pem", "server.pem", "server.key"):
        (tmp_path / "certs.d" / NAME / name).write_bytes((tmp_path / name).read_bytes())
    (tmp_path / "certs.d" / NAME / "other.pem").write_bytes((tmp_path / "other" / "ca.pem").read_bytes())
    client = 'client = [["server.pem", "server.key"]]'
    with serving(context) as server:
        server.add("app", "v1", APP)

        async def test(images: ImagesFixture) -> None:
            async def fails(settings: str, why: str) -> None:
                configure(tmp_path, f'server = "https://{server.host}"\n{settings}')
                with pytest.raises(OrlopError, match=why):
                    await pulled(images, f"{NAME}/app:v1")

            await fails(f'ca = "other.pem"\n{client}', "certificate signed by unknown authority")
            await fails('ca = "ca.pem"', "certificate required|connection reset|unexpected EOF|ReadError")
            await fails('ca = "none.pem"', "cannot read ca .*/none.pem of https://127.0.0.1")
            await fails('ca = "server.key"', "cannot read ca .*/server.key of https://127.0.0.1")
            await fails('client = "ca.pem"', "cannot read the client certificate .*/ca.pem of https://127.0.0.1")
            configure(tmp_path, f'server = "https://{server.host}"\nca = ["ca.pem"]\n{client}')
            assert await pulled(images, f"{NAME}/app:v1") == APP.id

        run(tmp_path, test)


def test_invalid_hosts_toml_affects_only_its_registry(tmp_path: Path) -> None:
    with serving() as server:
        server.add("app", "v1", APP)
        configure(tmp_path, 'server = "https://x"\n\ncapabilites = ["pull"]')

        async def test(images: ImagesFixture) -> None:
            with pytest.raises(DriverError, match=r'/hosts\.toml:3: unknown key "capabilites" \(known keys are'):
                await pulled(images, f"{NAME}/app:v1")
            assert await pulled(images, f"{server.host}/app:v1") == APP.id, "other registries go on"
            configure(tmp_path, f'server = "http://{server.host}"')
            assert await pulled(images, f"{NAME}/app:v1") == APP.id, "the file is read at each pull"

        run(tmp_path, test)


def test_restricted_clients_can_use_a_mirror_that_the_administrator_has_configured(tmp_path: Path) -> None:
    def refuse(what: str) -> Exception:
        return AssertionError(what)

    with serving() as server:
        server.add("app", "v1", APP)
        configure(tmp_path, f'[host."http://{server.host}"]')

        async def test(images: ImagesFixture) -> None:
            assert await pulled(images, f"{NAME}/app:v1", refuse=refuse) == APP.id

        run(tmp_path, test)


def test_login_is_checked_by_the_registry_and_not_by_its_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orlop_engine.images.registry_tls.CERTS_D", (str(tmp_path / "certs.d"),))
    with serving() as mirror, serving() as server:
        server.ping = status(401, "UNAUTHORIZED", "", WWW_Authenticate='Basic realm="x"')
        configure(tmp_path, f'[host."http://{mirror.host}"]', server.host)

        async def main() -> None:
            with pytest.raises(OrlopError, match="unauthorized"):
                await login.check_login(Config(), server.host, Credentials("u", "p"))
            assert server.requests and not mirror.requests

        trio.run(main)


def test_download_interrupted_at_a_mirror_is_continued_at_the_registry(tmp_path: Path) -> None:
    with serving() as mirror, running() as upstream:
        mirror.add("app", "v1", APP)
        mirror.misbehave(BASE.digest, truncate(2000))
        for part in (APP.config, *APP.layers):
            push_blob(upstream.host, "app", part)
        push_manifest(upstream.host, "app", "v1", APP.manifest)
        configure(tmp_path, f'server = "http://{upstream.host}"\n[host."http://{mirror.host}"]')

        async def test(images: ImagesFixture) -> None:
            assert await pulled(images, f"{NAME}/app:v1") == APP.id
            assert len(mirror.paths(BASE.digest)) == 1

        run(tmp_path, test)
