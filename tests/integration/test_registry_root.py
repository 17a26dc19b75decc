"""The image service with real parts: Debian's docker-registry, the overlay2 driver, the sandboxed unpacker, TLS."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from tests.registry import busybox, docker_archive, image, layer, oci_archive, push, running
from tests.registry.fakes import drain, open_images
from tests.registry.hostile import serving
from tests.registry.tls import certificate

from orlop_engine.config import Config
from orlop_engine.images.pull import PullRequest
from orlop_engine.images.references import with_tag_or_digest
from orlop_engine.images.service import Images
from orlop_engine.processes.zygote import Zygote
from orlop_kernel.events import EventBus
from orlop_kernel.store import Store
from orlop_sdk import OrlopError, Storage, StorageContext
from orlop_sdk.discovery import find

BASE = layer(busybox())
TOP = layer({"etc/motd": b"hello\n", "bin/.wh.vi": b""}, compression="zstd", oci=True)


@asynccontextmanager
async def real_room(root: Path) -> AsyncIterator[tuple[Images, Storage]]:
    os.makedirs(root / "overlay2", mode=0o710, exist_ok=True)
    storage: Storage = find("storage", "overlay2").make(StorageContext(str(root / "overlay2")))
    async with (
        Store.open(str(root / "state" / "orlop.db")) as store,
        Zygote.start(str(root / "exec")) as zygote,
        trio.open_nursery() as nursery,
    ):
        images = Images(str(root / "content"), store, EventBus(), storage, zygote, Config(), nursery)
        await images.load()
        yield images, storage
        nursery.cancel_scope.cancel()


@pytest.mark.root
def test_pulled_image_is_usable_after_a_restart_and_can_be_removed_completely(tmp_path: Path) -> None:
    app = image([BASE, TOP], oci=True)

    async def main() -> None:
        with running() as registry, trio.fail_after(150):
            await trio.to_thread.run_sync(push, registry.host, "test/app", "v1", app)
            name = f"{registry.host}/test/app:v1"
            async with real_room(tmp_path) as (images, storage):
                records = await drain(images.pull(PullRequest(with_tag_or_digest(name, ""))))
                assert records[-1] == {"status": f"Status: Downloaded newer image for {name}"}
                found = images.resolve(name)
                upper = (await storage.describe(found.chain_id))["UpperDir"]
                with open(f"{upper}/etc/motd") as file:
                    assert file.read() == "hello\n"
                assert os.stat(f"{upper}/bin/vi").st_rdev == 0, "a whiteout"
                shown = await images.inspect(name)
                assert shown.storage_driver == "overlay2"
                assert [step.size > 0 for step in images.history(name)] == [True, True]
            async with real_room(tmp_path) as (images, storage):
                assert images.resolve(name).id == app.id, "it survives the daemon"
                gone = await images.remove(name)
                assert [item.deleted for item in gone][-3:] == [app.id, found.chain_ids[1], found.chain_ids[0]]
                assert not images.all() and not await storage.keys()
                assert not os.listdir(tmp_path / "content" / "blobs" / "sha256")

    trio.run(main)


@pytest.mark.root
@pytest.mark.parametrize("kind", ["docker", "docker.gz", "oci"])
def test_images_from_docker_and_oci_archives_are_unpacked_and_stored(tmp_path: Path, kind: str) -> None:
    app = image([BASE, layer({"etc/motd": b"hello\n"})])
    if kind == "oci":
        data = oci_archive({"docker.io/test/app:v1": app})
    else:
        data = docker_archive({"test/app:v1": app})
    if kind.endswith("gz"):
        import gzip

        data = gzip.compress(data, 1)

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(data), 100_000):
            yield data[at : at + 100_000]
            await trio.lowlevel.checkpoint()

    async def main() -> None:
        with trio.fail_after(150):
            async with real_room(tmp_path) as (images, storage):
                records = await drain(images.load_archive(pieces(), quiet=False))
                assert records[-1] == {"stream": "Loaded image: test/app:v1\n"}
                found = images.resolve("test/app:v1")
                assert found.id == app.id
                upper = (await storage.describe(found.chain_id))["UpperDir"]
                assert os.path.exists(f"{upper}/etc/motd")

    trio.run(main)


def test_private_ca_of_a_registry_is_trusted_only_if_it_is_in_certs_d(tmp_path: Path) -> None:
    """With `certs.d/<host>/ca.crt`, a private CA is trusted; without it the registry is refused, without a fallback to HTTP.
    Loopback needs no certificate, so the test uses a name that the rules do not treat as loopback."""
    certificate(tmp_path)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    app = image([layer({"hello": b"hi"})])

    async def main() -> None:
        with serving(server) as registry, trio.fail_after(150):
            registry.add("app", "v1", app)
            async with open_images(str(tmp_path / "loopback")) as images:
                await drain(images.images.pull(PullRequest(with_tag_or_digest(f"{registry.host}/app", "v1"))))
                assert images.images.resolve(f"{registry.host}/app:v1").id == app.id
            certs = tmp_path / "certs.d" / registry.host
            mirror = f"https://{registry.host}"
            registry.add("library/app", "v1", app)
            for trusted in (False, True):
                if trusted:
                    certs.mkdir(parents=True)
                    (certs / "ca.crt").write_bytes((tmp_path / "ca.pem").read_bytes())
                await verified(tmp_path / f"trusted-{trusted}", registry.host, mirror, trusted, str(tmp_path / "certs.d"))

    async def verified(root: Path, host: str, url: str, trusted: bool, certs: str) -> None:
        from orlop_engine.images.endpoints import Endpoint
        from orlop_engine.images.references import parse
        from orlop_engine.images.registry import Registry
        from orlop_engine.images.registry_auth import ANONYMOUS

        connecting = Registry.connect(
            Endpoint(url, verify=True), parse(f"{host}/app"), ANONYMOUS, proxies=Config().proxies, certificates=(certs,)
        )
        if trusted:
            async with connecting as registry:
                _, data = await registry.manifest("v1")
            assert data == app.manifest.data
            return
        with pytest.raises(OrlopError, match="x509: certificate signed by unknown authority"):
            async with connecting:
                raise AssertionError("an unknown authority was believed")

    trio.run(main)
