"""Archives between Orlop and other tools: Orlop loads archives of the other tool, and the other tool loads Orlop's.

Each tool is skipped if its package is not installed.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.engine import Engine, until
from tests.registry import busybox, docker_archive, image, layer, oci_archive

pytestmark = pytest.mark.root

BASE = layer(busybox())
CONFIG = {"Cmd": ["cat", "/said"], "Env": ["PATH=/bin"], "Labels": {"a": "b"}}
APP = image([BASE, layer({"said": b"well\n"})], config=CONFIG)
PACKED = image([layer(busybox(), oci=True), layer({"said": b"well\n"}, oci=True)], config=CONFIG, oci=True)
NAMES = ("app:1", "packed:1")
"""`app:1` is stored as plain layers, `packed:1` as they come from a registry, compressed."""

needs_dockerd = pytest.mark.skipif(not shutil.which("dockerd"), reason="dockerd is not installed")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = Engine()
    engine.start()
    yield engine
    engine.docker("system", "prune", "-af")
    assert engine.close() == []


@pytest.fixture(autouse=True)
def loaded(engine: Engine) -> Iterator[None]:
    engine.docker("load", stdin=docker_archive({"app:1": APP}), check=0)
    engine.docker("load", stdin=oci_archive({"docker.io/library/packed:1": PACKED}), check=0)
    yield
    engine.docker("image", "prune", "-af", check=0)


def tool(*argv: str, stdin: bytes = b"", **environment: str) -> bytes:
    if not shutil.which(argv[0]):
        pytest.skip(f"{argv[0]} is not installed")
    done = subprocess.run(
        argv, input=stdin, capture_output=True, timeout=120, check=False, env={**os.environ, **environment}
    )
    assert done.returncode == 0, (argv, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout


def save(engine: Engine, *names: str) -> bytes:
    done = engine.docker("save", *names, check=0)
    return done.stdout


def runs(engine: Engine, name: str) -> None:
    assert engine.ok("run", "--rm", "--network", "none", name) == "well"


def ids(engine: Engine) -> dict[str, str]:
    return {name: engine.ok("inspect", "-f", "{{.Id}}", name) for name in NAMES}


def test_saved_images_can_be_loaded_and_run(engine: Engine) -> None:
    before = ids(engine)
    data = save(engine, *NAMES)
    assert save(engine, *NAMES) == data
    engine.docker("rmi", *NAMES, check=0)
    assert engine.docker("load", stdin=data, check=0).out.splitlines() == [f"Loaded image: {name}" for name in NAMES]
    assert ids(engine) == before
    for name in NAMES:
        runs(engine, name)
    assert save(engine, *NAMES) == data


def test_orlop_save_writes_images_to_a_pipe_or_a_file(engine: Engine, tmp_path: Path) -> None:
    data = save(engine, *NAMES)
    assert engine.orlop("save", *NAMES, check=0).stdout == data
    engine.orlop("save", "-o", str(tmp_path / "x.tar"), *NAMES, check=0)
    assert (tmp_path / "x.tar").read_bytes() == data
    assert engine.orlop("save", "nosuch").err == "orlop: Error response from daemon: No such image: nosuch\n"


# --- dockerd ----------------------------------------------------------------------------------------------------------


class Dockerd:
    """A dockerd with its data in the directory `home`. `options` are its flags."""

    def __init__(self, home: str, *options: str) -> None:
        self.socket = f"{home}/dockerd.sock"
        flags = ("--bridge", "none", "--iptables=false", "--ip6tables=false", "-H", f"unix://{self.socket}")
        roots = ("--data-root", f"{home}/dd", "--exec-root", f"{home}/dx", "--pidfile", f"{home}/dpid")
        with open(f"{home}/dockerd.log", "wb") as log:
            self._process = subprocess.Popen(["dockerd", *roots, *flags, *options], stdout=log, stderr=log)
        self.home = home

    def docker(self, *argv: str, stdin: bytes = b"") -> bytes:
        return tool("docker", "-H", f"unix://{self.socket}", *argv, stdin=stdin)

    def answers(self) -> bool:
        return (
            subprocess.run(["docker", "-H", f"unix://{self.socket}", "info"], capture_output=True, check=False).returncode
            == 0
        )

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        for name in ("dd", "dx"):
            shutil.rmtree(f"{self.home}/{name}", ignore_errors=True)


@pytest.fixture(scope="module")
def dockerd(engine: Engine) -> Iterator[Dockerd]:
    found = Dockerd(str(engine.home))
    try:
        until(found.answers, "dockerd", 60)
        yield found
    finally:
        found.close()


@needs_dockerd
def test_dockerd_loads_saved_images_and_saves_them_unchanged(engine: Engine, dockerd: Dockerd) -> None:
    before = ids(engine)
    dockerd.docker("load", stdin=save(engine, *NAMES))
    for name in NAMES:
        assert dockerd.docker("inspect", "-f", "{{.Id}}", name).decode().strip() == before[name]
    theirs = dockerd.docker("save", *NAMES)
    engine.docker("rmi", *NAMES, check=0)
    engine.docker("load", stdin=theirs, check=0)
    assert ids(engine) == before
    for name in NAMES:
        runs(engine, name)


@needs_dockerd
@pytest.mark.parametrize("names", [["app"], ["app:1", "packed:1"], ["app:1", "app:2"], ["ID"], ["app", "ID"]])
def test_save_writes_the_same_manifest_json_as_dockerd(engine: Engine, dockerd: Dockerd, names: list[str]) -> None:
    archive = docker_archive({"app:1": APP, "app:2": APP, "packed:1": PACKED})
    said = []
    engine.docker("rmi", *NAMES, check=0)
    for docker in (lambda *argv, **more: engine.docker(*argv, check=0, **more).stdout, dockerd.docker):
        docker("load", stdin=archive)
        data = docker("save", *(APP.id if name == "ID" else name for name in names))
        said.append(_tables(data))
    assert said[0] == said[1]


def _tables(data: bytes) -> list[Any]:
    """The documents that name the images in an archive of plain layers. Digests of manifests and `LayerSources` are left
    out, because they differ."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        found = {name: json.load(archive.extractfile(name)) for name in archive.getnames() if _is_table(name)}  # type: ignore[arg-type]
    table = [{key: value for key, value in entry.items() if key != "LayerSources"} for entry in found["manifest.json"]]
    index = [{**entry, "digest": "", "size": 0} for entry in found["index.json"]["manifests"]]
    by_config = sorted(table, key=lambda entry: entry["Config"])
    return [by_config, sorted(map(str, index)), found.get("repositories"), found["oci-layout"]]


def _is_table(name: str) -> bool:
    return name in ("manifest.json", "index.json", "repositories", "oci-layout")


# --- podman, skopeo, umoci, buildah, containerd ----------------------------------------------------------------------------


def _store(tmp_path: Path) -> list[str]:
    return ["--root", f"{tmp_path}/root", "--runroot", f"{tmp_path}/run", "--storage-driver", "vfs"]


@pytest.fixture
def podman(tmp_path: Path) -> Iterator[list[str]]:
    yield ["podman", *_store(tmp_path), "--cgroup-manager", "cgroupfs", "--events-backend", "none"]
    subprocess.run(["umount", "-l", f"{tmp_path}/root/vfs"], capture_output=True, check=False)


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_podman_loads_saved_images_and_saves_them_unchanged(engine: Engine, podman: list[str], form: str) -> None:
    before = ids(engine)
    theirs = {}
    for name in NAMES:  # podman renames the images of an archive with several images, also of dockerd's archives
        tool(*podman, "load", stdin=save(engine, name))
        shown = json.loads(tool(*podman, "image", "inspect", f"docker.io/library/{name}"))[0]
        assert f"sha256:{shown['Id']}" == before[name]
        theirs[name] = tool(*podman, "save", "--format", form, f"docker.io/library/{name}")
    engine.docker("rmi", *NAMES, check=0)
    for name in NAMES:
        said = engine.docker("load", stdin=theirs[name], check=0).out
        assert said.startswith("Loaded image"), said
        if form == "docker-archive":
            runs(engine, name)


@pytest.mark.parametrize("form", ["oci-archive", "docker-archive", "oci", "dir-of-docker"])
@pytest.mark.parametrize("name", NAMES)
def test_skopeo_copies_saved_images_and_returns_them_unchanged(engine: Engine, tmp_path: Path, name: str, form: str) -> None:
    before = ids(engine)[name]
    (tmp_path / "ours.tar").write_bytes(save(engine, name))
    source = f"docker-archive:{tmp_path}/ours.tar:{name}" if "docker" in form else f"oci-archive:{tmp_path}/ours.tar:1"
    target = {
        "oci": f"oci:{tmp_path}/layout:{name}",
        "oci-archive": f"oci-archive:{tmp_path}/theirs.tar:{name}",
    }.get(form, f"docker-archive:{tmp_path}/theirs.tar:{name}")
    tool("skopeo", "--tmpdir", str(tmp_path), "copy", "--insecure-policy", source, target)
    if form == "oci":
        subprocess.run(["tar", "-C", f"{tmp_path}/layout", "-cf", f"{tmp_path}/theirs.tar", "."], check=True)
    engine.docker("rmi", name, check=0)
    engine.docker("load", "-i", f"{tmp_path}/theirs.tar", check=0)
    runs(engine, name)
    if "docker" not in form:
        assert ids(engine)[name] == before


@pytest.mark.parametrize("name", NAMES)
def test_orlop_loads_a_saved_oci_layout_that_umoci_has_changed(engine: Engine, tmp_path: Path, name: str) -> None:
    layout = tmp_path / "layout"
    layout.mkdir()
    subprocess.run(["tar", "-C", str(layout), "-x"], input=save(engine, name), check=True)
    tool("umoci", "stat", "--image", f"{layout}:1")
    tool("umoci", "unpack", "--image", f"{layout}:1", f"{tmp_path}/bundle")
    assert (tmp_path / "bundle/rootfs/said").read_text() == "well\n"
    (tmp_path / "bundle/rootfs/said").write_text("umoci\n")
    tool("umoci", "repack", "--image", f"{layout}:made", f"{tmp_path}/bundle")
    tool("umoci", "config", "--image", f"{layout}:made", "--config.cmd", "cat", "--config.cmd", "/said")
    (layout / "manifest.json").unlink()
    theirs = subprocess.run(["tar", "-C", str(layout), "-c", "."], capture_output=True, check=True).stdout
    said = engine.docker("load", stdin=theirs, check=0).out
    assert engine.ok("run", "--rm", "--network", "none", said.split()[-1]) == "umoci"


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_buildah_pulls_saved_images_and_returns_them_unchanged(engine: Engine, tmp_path: Path, form: str) -> None:
    (tmp_path / "ours.tar").write_bytes(save(engine, "app:1"))
    buildah = ["buildah", *_store(tmp_path)]
    pulled = tool(*buildah, "pull", f"docker-archive:{tmp_path}/ours.tar", TMPDIR=str(tmp_path)).decode().split()[-1]
    assert f"sha256:{pulled}" == ids(engine)["app:1"]
    tool(
        *buildah,
        "push",
        pulled,
        f"{form}:{tmp_path}/theirs.tar:docker.io/library/app:1",
        TMPDIR=str(tmp_path),
    )
    engine.docker("rmi", "app:1", check=0)
    assert engine.docker("load", "-i", f"{tmp_path}/theirs.tar", check=0).out == "Loaded image: app:1\n"
    runs(engine, "app:1")


@pytest.fixture
def containerd(tmp_path: Path) -> Iterator[list[str]]:
    if not shutil.which("containerd"):
        pytest.skip("containerd is not installed")
    config = tmp_path / "config.toml"
    config.write_text('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
    address = f"/tmp/ctr-{os.getpid()}.sock"
    roots = ["--root", f"{tmp_path}/root", "--state", f"{tmp_path}/state", "--address", address]
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(["containerd", "-c", str(config), *roots], stdout=log, stderr=log)
    ctr = ["ctr", "--address", address]
    try:
        until(lambda: subprocess.run([*ctr, "version"], capture_output=True, check=False).returncode == 0, "containerd", 30)
        yield ctr
    finally:
        process.terminate()
        process.wait(30)
        for name in (address, f"{address}.ttrpc"):
            Path(name).unlink(missing_ok=True)


def test_containerd_imports_saved_images_and_exports_them_unchanged(
    engine: Engine, containerd: list[str], tmp_path: Path
) -> None:
    before = ids(engine)
    (tmp_path / "ours.tar").write_bytes(save(engine, *NAMES))
    tool(*containerd, "images", "import", "--snapshotter", "native", str(tmp_path / "ours.tar"))
    names = [f"docker.io/library/{name}" for name in NAMES]
    assert tool(*containerd, "images", "ls", "-q").decode().split() == names
    tool(*containerd, "images", "export", str(tmp_path / "theirs.tar"), *names)
    engine.docker("rmi", *NAMES, check=0)
    engine.docker("load", "-i", str(tmp_path / "theirs.tar"), check=0)
    assert ids(engine) == before
    for name in NAMES:
        runs(engine, name)
