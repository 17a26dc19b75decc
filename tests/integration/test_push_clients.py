"""Pushes with common clients to Debian's docker-registry. The tests check the pushed content, layers that are not sent
again, and that other programs can read the result."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.engine import Engine
from tests.registry import Registry, busybox, docker_archive, image, layer, push, running

pytestmark = pytest.mark.root

BASE = layer(busybox())
APP = image([BASE, layer({"said": b"well\n"})], config={"Cmd": ["cat", "/said"], "Env": ["PATH=/bin"]})


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = Engine()
    engine.start()
    yield engine
    engine.docker("system", "prune", "-af")
    assert engine.close() == []


@pytest.fixture
def registry() -> Iterator[Registry]:
    with running() as registry:
        yield registry


@pytest.fixture
def app(engine: Engine, registry: Registry) -> Iterator[str]:
    """The name of an image that was loaded, so that its layers are not compressed yet."""
    name = f"{registry.host}/team/app:v1"
    engine.docker("load", stdin=docker_archive({name: APP}), check=0)
    yield name
    engine.docker("image", "prune", "-af", check=0)


def uploads(registry: Registry) -> list[str]:
    """Requests that contain content of blobs."""
    return [one for one in registry.requests() if one.startswith(("PATCH", "PUT")) and "/blobs/" in one]


def tool(*argv: str) -> str:
    if not shutil.which(argv[0]):
        pytest.skip(f"{argv[0]} is not installed")
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, (argv, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout


def test_second_docker_push_uploads_nothing(engine: Engine, registry: Registry, app: str) -> None:
    said = engine.ok("push", app).splitlines()
    ids = [part.diff_id[7:19] for part in APP.layers]
    assert said[:3] == [
        f"The push refers to repository [{registry.host}/team/app]",
        f"{ids[1]}: Preparing",
        f"{ids[0]}: Preparing",
    ]
    assert {f"{id}: Pushed" for id in ids} <= set(said)
    assert said[-1].startswith("v1: digest: sha256:") and " size: " in said[-1]
    sent = uploads(registry)
    assert sent
    again = engine.ok("push", app).splitlines()
    assert {f"{id}: Layer already exists" for id in ids} <= set(again)
    assert again[-1] == said[-1]
    assert uploads(registry) == sent, "nothing is uploaded twice"
    assert engine.ok("push", "-q", app) == app


def test_all_tags_are_pushed_and_layers_of_another_repository_are_mounted(
    engine: Engine, registry: Registry, app: str
) -> None:
    engine.ok("tag", app, f"{registry.host}/team/app:v2")
    said = engine.ok("push", "-a", f"{registry.host}/team/app")
    assert "v1: digest: sha256:" in said and "v2: digest: sha256:" in said
    sent = uploads(registry)
    engine.ok("tag", app, f"{registry.host}/other/place")
    assert engine.ok("push", f"{registry.host}/other/place").count("Mounted from team/app") == 2
    assert uploads(registry) == sent


def test_pushed_image_is_the_same_on_another_engine(engine: Engine, registry: Registry, app: str) -> None:
    digest = engine.ok("push", app).rpartition("digest: ")[2].partition(" ")[0]
    elsewhere = Engine()
    elsewhere.start()
    try:
        assert f"Digest: {digest}" in elsewhere.ok("pull", app)
        assert elsewhere.ok("image", "inspect", "-f", "{{.Id}}", app) == APP.id
        assert elsewhere.ok("run", "--rm", "--network", "none", app) == "well"
        elsewhere.ok("tag", app, f"{registry.host}/back:v1")
        assert f"digest: {digest}" in elsewhere.ok("push", f"{registry.host}/back:v1"), "byte for byte"
        elsewhere.docker("system", "prune", "-af")
    finally:
        assert elsewhere.close() == []


def test_committed_image_can_be_pushed(engine: Engine, registry: Registry, app: str, name: str) -> None:
    engine.ok("run", "--name", name, "--network", "none", app, "sh", "-c", "echo changed > /said")
    engine.ok("commit", name, f"{registry.host}/made:1")
    engine.ok("rm", name)
    engine.ok("push", f"{registry.host}/made:1")
    engine.ok("rmi", f"{registry.host}/made:1")
    assert engine.ok("run", "--rm", "--network", "none", f"{registry.host}/made:1", "cat", "/said") == "changed"


def test_docker_py_pushes_an_image(engine: Engine, registry: Registry, app: str) -> None:
    records = list(engine.sdk.images.push(f"{registry.host}/team/app", tag="v1", stream=True, decode=True))
    (aux,) = [record["aux"] for record in records if "aux" in record]
    assert (aux["Tag"], len(aux["Digest"])) == ("v1", 71)
    data = engine.sdk.images.get_registry_data(app)
    assert data.id == aux["Digest"] and data.has_platform("linux/amd64")


def test_orlop_pushes_an_image(engine: Engine, registry: Registry, app: str) -> None:
    said = engine.orlop("push", app, check=0).out
    assert said.splitlines()[-1].startswith("v1: digest: sha256:")
    assert engine.orlop("push", "-q", app, check=0).line == app
    failed = engine.orlop("push", f"{registry.host}/none:x")
    assert (failed.code, failed.err.strip()) == (
        1,
        f"orlop: An image does not exist locally with the tag: {registry.host}/none",
    )


def test_other_programs_can_read_a_pushed_image(engine: Engine, registry: Registry, app: str, tmp_path: Path) -> None:
    digest = engine.ok("push", app).rpartition("digest: ")[2].partition(" ")[0]
    shown = json.loads(engine.ok("manifest", "inspect", "--insecure", app))
    assert shown["config"]["digest"] == APP.id and len(shown["layers"]) == 2
    source = ["--tls-verify=false", f"docker://{app}"]
    seen = json.loads(tool("skopeo", "inspect", *source))
    assert seen["Digest"] == digest and len(seen["Layers"]) == 2
    tool("skopeo", "copy", "--insecure-policy", "--src-tls-verify=false", f"docker://{app}", f"dir:{tmp_path}/copy")
    assert (tmp_path / "copy" / APP.id.removeprefix("sha256:")).exists()


def test_pulled_oci_image_keeps_its_digest_when_it_is_pushed_again(engine: Engine, registry: Registry) -> None:
    packed = image([layer(busybox(), oci=True), layer({"said": b"well\n"}, compression="zstd", oci=True)], oci=True)
    push(registry.host, "oci/app", "v1", packed)
    engine.ok("pull", f"{registry.host}/oci/app:v1")
    engine.ok("tag", f"{registry.host}/oci/app:v1", f"{registry.host}/oci/back:v1")
    assert f"digest: {packed.manifest.digest}" in engine.ok("push", f"{registry.host}/oci/back:v1")
    seen = json.loads(tool("skopeo", "inspect", "--tls-verify=false", f"docker://{registry.host}/oci/back:v1"))
    assert seen["Digest"] == packed.manifest.digest


def test_push_authenticates_to_a_registry_with_passwords(engine: Engine, app: str, tmp_path: Path) -> None:
    """Basic authentication, with the credentials that the client has stored."""
    htpasswd = tmp_path / "htpasswd"
    htpasswd.write_text(tool("htpasswd", "-Bbn", "me", "secret"))
    with running(extra=f"auth:\n  htpasswd:\n    realm: test\n    path: {htpasswd}\n") as locked:
        name = f"{locked.host}/team/app:v1"
        engine.ok("tag", app, name)
        refused = engine.docker("push", name)
        assert (refused.code, refused.err.strip()) == (1, "no basic auth credentials")
        for password, message in (("wrong", "unauthorized: authentication required"), ("secret", "")):
            auth = base64.b64encode(f"me:{password}".encode()).decode()
            (tmp_path / "config.json").write_text(json.dumps({"auths": {locked.host: {"auth": auth}}}))
            client = ["docker", "--config", str(tmp_path), "-H", f"unix://{engine.socket}"]
            done = engine.run([*client, "push", name])
            assert (done.code, done.err.strip()) == (1 if message else 0, message)
        assert "v1: digest:" in done.out
        shown = subprocess.run([*client, "manifest", "inspect", "--insecure", name], capture_output=True, check=True)
        assert json.loads(shown.stdout)["config"]["digest"] == APP.id
        assert "secret" not in engine.log() and auth not in engine.log()
        assert not [path for path in Path(engine.data_root).rglob("*.db*") if b"secret" in path.read_bytes()]
        engine.ok("rmi", name)


def test_push_succeeds_after_its_client_was_killed(engine: Engine, registry: Registry, name: str) -> None:
    large = os.urandom(64 << 20)
    big = f"{registry.host}/big:{name}"
    engine.docker("load", stdin=docker_archive({big: image([layer({"large": large})])}), check=0)
    client = engine.background("push", big)
    while not any(one.startswith("POST") for one in registry.requests()):
        assert client.poll() is None
    client.kill()
    client.wait()
    engine.ok("push", big)
    assert not os.listdir(f"{engine.data_root}/content/ingest")
    engine.ok("rmi", big)
