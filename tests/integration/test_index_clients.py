"""Indexes between Orlop, Debian's docker-registry and other tools. Orlop pushes and saves an index and its attestations
unchanged, and docker, buildx, skopeo, podman, containerd and dockerd read the result."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from tests.integration.engine import Engine, until
from tests.integration.test_image_archives import Dockerd, needs_dockerd, tool
from tests.integration.test_image_archives import containerd as containerd  # fixtures
from tests.integration.test_image_archives import dockerd as dockerd
from tests.integration.test_image_archives import podman as podman
from tests.registry import Attested, Registry, busybox, image, layer, running

from orlop_engine.images import platforms

pytestmark = pytest.mark.root

HOST = platforms.default()
FILES = {**busybox(), "said": b"well\n"}
CONFIG = {"Cmd": ["cat", "/said"], "Env": ["PATH=/bin"]}
MINE = image([layer(FILES, oci=True)], config=CONFIG, platform={"os": HOST.os, "architecture": HOST.architecture}, oci=True)
OTHER = image([layer({"other": b"1"}, oci=True)], platform={"os": "linux", "architecture": "s390x"}, oci=True)
ABOUT = Attested(OTHER, MINE)
INDEX = ABOUT.index.digest
ACCEPT = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json"


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = Engine()
    engine.start()
    yield engine
    assert engine.close() == []


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    with running() as registry:
        yield registry


@pytest.fixture
def one(engine: Engine, registry: Registry) -> Iterator[str]:
    """A name for images of two platforms. Only the image for this host is pulled."""
    name = ABOUT.push(registry, "team/app", "v1")
    engine.ok("pull", "-q", name)
    yield name
    engine.docker("image", "prune", "-af", check=0)


@pytest.fixture
def both(engine: Engine, one: str) -> str:
    """A name for images of two platforms. Both images are pulled."""
    engine.ok("pull", "-q", "--platform", "linux/s390x", one)
    return one


def served(registry: Registry, repository: str, tag: str) -> bytes:
    """The manifest or index at the registry."""
    request = urllib.request.Request(f"http://{registry.host}/v2/{repository}/manifests/{tag}", headers={"Accept": ACCEPT})
    with urllib.request.urlopen(request, timeout=30) as answer:
        data = answer.read()
        assert isinstance(data, bytes)
        return data


def shown(engine: Engine, name: str) -> dict[str, bool]:
    """The manifests of a name, and whether they are stored."""
    status, found = engine.api("GET", f"/v1.48/images/{name}/json?manifests=1")
    assert status == 200
    return {one["ID"]: one["Available"] for one in found["Manifests"]}


def test_a_pull_keeps_the_attestation_about_its_platform(engine: Engine, one: str) -> None:
    other, mine = ABOUT.attestations
    assert shown(engine, one) == {
        OTHER.manifest.digest: False,
        MINE.manifest.digest: True,
        other.digest: False,
        mine.digest: True,
    }
    status, found = engine.api("GET", f"/v1.55/images/{one}/attestations?statement=1")
    assert status == 200 and [item["Statement"]["about"] for item in found] == [MINE.id]


def test_pushed_index_is_the_same_as_the_pulled_index(engine: Engine, registry: Registry, both: str, tmp_path: Path) -> None:
    assert all(shown(engine, both).values())
    target = f"{registry.host}/copy/app:v2"
    engine.ok("tag", both, target)
    said = engine.ok("push", target).splitlines()
    assert said[-1] == f"v2: digest: {INDEX} size: {len(ABOUT.index.data)}"
    assert served(registry, "copy/app", "v2") == ABOUT.index.data
    for manifest in (MINE.manifest, OTHER.manifest, *ABOUT.attestations):
        assert served(registry, "copy/app", manifest.digest) == manifest.data
    assert f"{registry.host}/copy/app@{INDEX}" in engine.ok("inspect", "-f", "{{.RepoDigests}}", target)

    config = str(tmp_path)  # buildx writes to it
    text = tool("docker", "buildx", "imagetools", "inspect", target, DOCKER_CONFIG=config).decode()
    assert INDEX in text and text.count("attestation-manifest") == 2 and "linux/s390x" in text
    raw = tool("docker", "buildx", "imagetools", "inspect", "--raw", target, DOCKER_CONFIG=config)
    assert raw.rstrip(b"\n") == ABOUT.index.data
    found = json.loads(tool("docker", "manifest", "inspect", "--insecure", target, DOCKER_CONFIG=config))
    assert [entry["platform"]["architecture"] for entry in found["manifests"]][:2] == ["s390x", HOST.architecture]
    raw = tool("skopeo", "inspect", "--tls-verify=false", "--raw", f"docker://{target}")
    assert raw == ABOUT.index.data


def target(found: dict[str, Any]) -> str:
    return str(found.get("Descriptor", {}).get("digest", ""))


def test_image_descriptor_is_shown_since_api_1_48_and_image_identity_since_1_53(
    engine: Engine, registry: Registry, both: str
) -> None:
    """`Descriptor` since 1.48, `Identity` since 1.53 (inspect) and 1.54 (list)."""
    path, wanted = f"/images/{both}/json", quote(json.dumps({"os": "linux", "architecture": "s390x"}))
    filters = quote(json.dumps({"reference": [both]}))
    assert [target(engine.api("GET", f"/v1.{minor}{path}")[1]) for minor in (47, 48)] == ["", INDEX]
    assert target(engine.api("GET", f"/v1.49{path}?platform={wanted}")[1]) == OTHER.manifest.digest
    assert [target(engine.api("GET", f"/v1.{n}/images/json?filters={filters}")[1][0]) for n in (47, 48)] == ["", INDEX]
    assert target(engine.api("GET", "/v1.55/images/busybox/json")[1]) == "", "made here"

    origin = {"Pull": [{"Repository": f"{registry.host}/team/app"}]}
    assert "Identity" not in engine.api("GET", f"/v1.52{path}")[1]
    assert engine.api("GET", f"/v1.53{path}")[1]["Identity"] == origin
    (item,) = engine.api("GET", f"/v1.54/images/json?filters={filters}&manifests=1&identity=1")[1]
    shown = [one["ImageData"].get("Identity") for one in item["Manifests"] if one["Kind"] == "image"]
    assert shown == [origin, origin]
    status, found = engine.api("GET", "/v1.54/images/json?identity=1")
    assert (status, found["message"]) == (400, "conflicting options: identity requires manifests=1")
    engine.ok("tag", both, f"{registry.host}/pushed/app:v1")
    engine.ok("push", "-q", f"{registry.host}/pushed/app:v1")
    assert engine.api("GET", f"/v1.53{path}")[1]["Identity"]["Pull"][-1] == {"Repository": f"{registry.host}/pushed/app"}


def test_save_request_can_select_several_platforms_since_api_1_52(engine: Engine, both: str) -> None:
    query = "&".join(f"platform={quote(json.dumps({'os': 'linux', 'architecture': name}))}" for name in ("s390x", "amd64"))
    status, found = engine.api("GET", f"/v1.51/images/{both}/get?{query}")
    assert status == 400 and found["message"].startswith(
        "multiple platform parameters are not supported in this API version"
    )
    status, data, _ = engine.raw("GET", f"/v1.52/images/{both}/get?{query}")
    assert status == 200 and ABOUT.index.data in data


def test_push_of_a_partly_stored_index_sends_one_image(engine: Engine, registry: Registry, one: str) -> None:
    target = f"{registry.host}/copy/single:v1"
    engine.ok("tag", one, target)
    assert engine.ok("push", target).splitlines()[-1].startswith(f"v1: digest: {MINE.manifest.digest} size: ")
    assert served(registry, "copy/single", "v1") == MINE.manifest.data


def test_index_of_one_platform_is_pushed_unchanged_after_a_pull(engine: Engine, registry: Registry) -> None:
    """By default, BuildKit pushes an image as such an index, which lists the image and its attestation."""
    about = Attested(MINE)
    name = about.push(registry, "team/built", "v1")
    engine.ok("pull", "-q", name)
    target = f"{registry.host}/copy/built:v1"
    engine.ok("tag", name, target)
    engine.ok("push", target)
    assert served(registry, "copy/built", "v1") == about.index.data
    engine.ok("rmi", name, target)


def test_manifest_descriptor_of_a_container_image_is_shown_since_api_1_48(engine: Engine, both: str, name: str) -> None:
    engine.ok("create", "--name", name, "--platform", f"linux/{HOST.architecture}", both)
    for path in (f"/containers/{name}/json", f"/containers/json?all=1&filters={quote(json.dumps({'name': [name]}))}"):
        assert "ImageManifestDescriptor" not in json.dumps(engine.api("GET", f"/v1.47{path}")[1])
        found = engine.api("GET", f"/v1.48{path}")[1]
        shown = (found[0] if isinstance(found, list) else found)["ImageManifestDescriptor"]
        assert (shown["digest"], shown["platform"]) == (MINE.manifest.digest, MINE.platform)
    row = engine.orlop("ps", "-a", "--filter", f"name={name}", "--format", "{{.Platform}}", check=0)
    assert row.out == f"linux/{HOST.architecture}\n"
    engine.ok("rm", name)


def test_orlop_images_tree_shows_each_platform(engine: Engine, both: str) -> None:
    lines = engine.orlop("images", "--tree", both, check=0).out.splitlines()
    assert [line.split()[:2] for line in lines[2:]] == [["├─", "linux/s390x"], ["└─", f"linux/{HOST.architecture}"]]
    assert engine.orlop("rmi", "--platform", "linux/s390x", both).code == 0
    assert "0B" in engine.orlop("images", "--tree", both, check=0).out.splitlines()[2]


# --- archives -------------------------------------------------------------------------------------------------------------


def save(engine: Engine, path: Path, name: str, query: str = "") -> Path:
    status, data, _ = engine.raw("GET", f"/v1.52/images/{name}/get{query}")
    assert status == 200
    path.write_bytes(data)
    return path


def test_saved_index_is_the_same_as_the_pulled_index(engine: Engine, registry: Registry, both: str, tmp_path: Path) -> None:
    archive = save(engine, tmp_path / "x.tar", both)
    target = f"docker://{registry.host}/skopeo/app:v1"
    flags = ("--tmpdir", str(tmp_path), "copy", "--all", "--insecure-policy", "--dest-tls-verify=false")
    tool("skopeo", *flags, f"oci-archive:{archive}:v1", target)
    assert served(registry, "skopeo/app", "v1") == ABOUT.index.data
    engine.ok("rmi", both)
    assert engine.ok("load", "-q", "-i", str(archive)) == f"Loaded image: {both}"
    assert all(shown(engine, both).values())
    assert save(engine, tmp_path / "y.tar", both).read_bytes() == archive.read_bytes()


def test_skopeo_copies_an_index_to_orlop(engine: Engine, registry: Registry, both: str, tmp_path: Path) -> None:
    archive = tmp_path / "x.tar"
    source = ("--insecure-policy", "--src-tls-verify=false", f"docker://{both}")
    tool("skopeo", "--tmpdir", str(tmp_path), "copy", "--all", *source, f"oci-archive:{archive}:{both}")
    engine.ok("rmi", both)
    assert engine.ok("load", "-q", "-i", str(archive)) == f"Loaded image: {both}"
    assert all(shown(engine, both).values())


def test_podman_loads_an_index_with_the_stored_images(
    engine: Engine,
    one: str,
    tmp_path: Path,
    podman: list[str],
) -> None:
    archive = save(engine, tmp_path / "x.tar", one)
    tool(*podman, "load", "-i", str(archive))
    found = json.loads(tool(*podman, "image", "inspect", one))[0]
    assert f"sha256:{found['Id']}" == MINE.id


def test_containerd_imports_an_index(
    engine: Engine,
    both: str,
    tmp_path: Path,
    containerd: list[str],
) -> None:
    archive = save(engine, tmp_path / "x.tar", both)
    tool(*containerd, "images", "import", "--all-platforms", "--no-unpack", str(archive))
    assert INDEX in tool(*containerd, "images", "ls").decode()
    assert ABOUT.attestations[0].digest in tool(*containerd, "content", "ls", "-q").decode().split()


@needs_dockerd
def test_dockerd_loads_the_image_for_this_host_from_a_saved_index(
    engine: Engine,
    both: str,
    tmp_path: Path,
    dockerd: Dockerd,
) -> None:
    archive = save(engine, tmp_path / "x.tar", both)
    dockerd.docker("load", "-i", str(archive))
    assert dockerd.docker("inspect", "-f", "{{.Id}}", both).decode().strip() == MINE.id


@pytest.fixture
def containerd_store(tmp_path: Path) -> Iterator[Dockerd]:
    """A dockerd whose images are in containerd's store, as newer versions have it by default."""
    config = tmp_path / "dockerd.json"
    config.write_text('{"features": {"containerd-snapshotter": true}}')
    found = Dockerd(str(tmp_path), "--config-file", str(config))
    try:
        until(found.answers, "dockerd", 60)
        yield found
    finally:
        found.close()


@needs_dockerd
def test_index_survives_a_round_trip_through_dockerds_containerd_store(
    engine: Engine, registry: Registry, both: str, tmp_path: Path, containerd_store: Dockerd
) -> None:
    """dockerd keeps and pushes the index that Orlop saved, and saves the same documents."""
    archive, target = save(engine, tmp_path / "x.tar", both), f"{registry.host}/docker/app:v1"
    containerd_store.docker("load", "-i", str(archive))
    assert containerd_store.docker("inspect", "-f", "{{.Id}}", both).decode().strip() == INDEX
    containerd_store.docker("tag", both, target)
    containerd_store.docker("push", target)
    assert served(registry, "docker/app", "v1") == ABOUT.index.data
    theirs = tmp_path / "y.tar"
    theirs.write_bytes(containerd_store.docker("save", both))
    assert blobs_of(theirs) == blobs_of(archive)
    engine.ok("rmi", both)
    assert engine.ok("load", "-q", "-i", str(theirs)) == f"Loaded image: {both}"
    assert all(shown(engine, both).values())


@needs_dockerd
def test_partly_pulled_index_is_saved_as_in_dockerd_and_can_be_loaded(
    engine: Engine, one: str, tmp_path: Path, containerd_store: Dockerd
) -> None:
    """dockerd saves the whole index with the stored content. Orlop does the same, and also stores the attestation."""
    containerd_store.docker("pull", "-q", one)
    theirs, ours = tmp_path / "y.tar", save(engine, tmp_path / "x.tar", one)
    theirs.write_bytes(containerd_store.docker("save", one))
    attestation = {part.digest[7:] for part in (ABOUT.attestations[1], *ABOUT.blobs[2:])}
    assert blobs_of(theirs) == blobs_of(ours) - attestation
    engine.ok("rmi", one)
    assert engine.ok("load", "-q", "-i", str(theirs)) == f"Loaded image: {one}"
    assert list(shown(engine, one).values()) == [False, True, False, False]


def blobs_of(archive: Path) -> set[str]:
    with tarfile.open(archive) as found:
        return {name.rpartition("/")[2] for name in found.getnames() if name.startswith("blobs/sha256/")}


def test_save_of_one_selected_platform_contains_one_image(engine: Engine, both: str, tmp_path: Path) -> None:
    """umoci needs this, because it expects a tag to mean one image."""
    if not shutil.which("umoci"):
        pytest.skip("umoci is not installed")
    query = f"?platform={quote(json.dumps({'os': HOST.os, 'architecture': HOST.architecture}))}"
    archive = save(engine, tmp_path / "x.tar", both, query)
    layout = tmp_path / "layout"
    layout.mkdir()
    subprocess.run(["tar", "-C", str(layout), "-xf", str(archive)], check=True)
    tool("umoci", "stat", "--image", f"{layout}:v1")
