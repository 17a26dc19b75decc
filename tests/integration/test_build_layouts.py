"""Build contexts that are OCI layouts in directories of the client (`--build-context NAME=oci-layout://DIR`)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.docker_root import Dockerd
from tests.integration.engine import Engine
from tests.integration.parity import Side
from tests.integration.test_build_clients import Client

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

BASE = """FROM busybox
RUN echo layout > /base && mkdir /gone && echo x > /gone/x
RUN rm -r /gone && chmod 4711 /base
ENV FROM_BASE=yes
WORKDIR /work
"""
ABOVE = "FROM base\nRUN cat /base > made && echo $FROM_BASE >> made && test ! -e /gone\nCOPY --from=base /base copied\n"
CONTEXT = ("--build-context", "base=oci-layout://layout")


@pytest.fixture(scope="module")
def layout(shared: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a layout whose image the engine does not have."""
    made = _client(shared, shared.socket, tmp_path_factory.mktemp("layout") / "made")
    (made.directory / "Dockerfile").write_text(BASE)
    made.ok("build", "-o", "type=oci,dest=layout,tar=false", ".")
    made.ok("builder", "prune", "-af")
    (made.directory / "Dockerfile").write_text(ABOVE)
    return made.directory


@pytest.fixture
def client(shared: Engine, layout: Path, tmp_path: Path) -> Iterator[Client]:
    found = _client(shared, shared.socket, tmp_path / "orlop")
    shutil.copytree(layout, found.directory, dirs_exist_ok=True)
    yield found
    found.run("image", "rm", "-f", "tb-layout")


def _client(shared: Engine, socket: str, directory: Path) -> Client:
    directory.mkdir()
    return Client(Side(directory.name, socket, directory, ""), shared.env, directory)


def parts(client: Client) -> tuple[Path, Path, list[Path]]:
    """The files of the manifest, the configuration and the layers."""
    blobs = client.directory / "layout" / "blobs"
    (entry,) = json.loads((client.directory / "layout" / "index.json").read_text())["manifests"]
    root = blobs / entry["digest"].replace(":", "/")
    manifest = json.loads(root.read_text())
    layers = [blobs / each["digest"].replace(":", "/") for each in manifest["layers"]]
    return root, blobs / manifest["config"]["digest"].replace(":", "/"), layers


def built(client: Client) -> Any:
    """Build an image that is based on the layout. Returns the parts of the image that are compared."""
    result = client.build("-t", "tb-layout", *CONTEXT, ".")
    assert result.code == 0, f"{client.name}: {result.err}"
    assert "[context base] OCI load from client" in result.err
    (found,) = json.loads(client.ok("image", "inspect", "tb-layout").out)
    files = client.ok("run", "--rm", "--network=none", "tb-layout", "sh", "-c", "cat made; stat -c '%a %n' /base copied")
    steps = client.ok("history", "--no-trunc", "--format", "{{.CreatedBy}}", "tb-layout").out
    config = {key: value for key, value in found["Config"].items() if value not in (None, "", [], {}, False)}
    return files.out.split(), config, found["RootFS"]["Layers"][:3], steps


def materials(client: Client) -> Any:
    client.ok("build", "-o", "type=local,dest=files", "--provenance=mode=max", *CONTEXT, ".")
    return json.loads((client.directory / "files" / "provenance.json").read_text())["predicate"]["materials"]


def test_build_from_a_damaged_or_incomplete_oci_layout_fails(client: Client) -> None:
    root, config, layers = parts(client)
    for path in (root, config, layers[-1]):
        data = path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        assert client.build("-t", "tb-layout", *CONTEXT, ".").code != 0
        path.unlink()
        assert client.build("-t", "tb-layout", *CONTEXT, ".").code != 0
        path.write_bytes(data)
    missing = "base=oci-layout://layout@sha256:" + "0" * 64
    assert client.build("--build-context", missing, ".").code != 0
    layers[0].unlink()  # the layer of busybox, which the engine has
    assert built(client)[0][0] == "layout"


def test_build_from_an_oci_layout_gives_the_same_image_as_in_dockerd(client: Client, shared: Engine, tmp_path: Path) -> None:
    """A build that uses OCI layouts as contexts."""
    ours = built(client)
    assert ours[0] == ["layout", "yes", "4711", "/base", "4711", "copied"]
    (tmp_path / "dockerd").mkdir()
    docker = Dockerd(tmp_path / "dockerd", containerd=True)  # without it, dockerd has no such contexts
    try:
        docker.start()
        theirs = _client(shared, docker.socket, tmp_path / "client")
        shutil.copytree(client.directory, theirs.directory, dirs_exist_ok=True)
        assert built(theirs) == ours
        assert materials(theirs) == materials(client)
    finally:
        docker.close()


def test_second_build_from_an_oci_layout_reads_no_layer_of_the_layout(client: Client) -> None:
    built(client)
    for path in parts(client)[2]:
        path.unlink()
    assert client.build("-t", "tb-layout", *CONTEXT, ".").err.count("CACHED") == 3
    # Also if the Dockerfile changes above the base, because the cache has the layers
    (client.directory / "Dockerfile").write_text("FROM base\nRUN cat /base > /other\n")
    client.ok("build", "-t", "tb-layout", *CONTEXT, ".")


def test_build_selects_the_image_of_its_platform_from_an_oci_layout(client: Client) -> None:
    (client.directory / "Dockerfile").write_text("FROM scratch\nARG TARGETARCH\nCOPY Dockerfile /$TARGETARCH\n")
    client.ok("build", "-o", "type=oci,dest=several,tar=false", "--platform=linux/amd64,linux/arm64", ".")
    (client.directory / "Dockerfile").write_text("FROM base\n")
    for name in ("amd64", "arm64"):
        options = ["--build-context", "base=oci-layout://several", f"--platform=linux/{name}"]
        client.ok("build", "-o", name, *options, ".")
        assert [path.name for path in (client.directory / name).iterdir()] == [name]
    result = client.build("--build-context", "base=oci-layout://several", "--platform=linux/s390x", ".")
    assert "no match for platform" in result.err
