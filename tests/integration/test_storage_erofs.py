"""A daemon whose layers are EROFS images, from end to end."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.engine import BUSYBOX, Engine, until
from tests.registry import Image, busybox, docker_archive, image, layer, push, running

pytestmark = pytest.mark.root

EROFS = {"storage-driver": "erofs", "live-restore": True}
WAYS = {
    "index": [],
    "full": ["erofs.mode=full", "erofs.compression=lz4"],
    "loop": ["erofs.mount=loop", "erofs.verify=digest"],
}


@pytest.fixture(params=WAYS)
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    made = Engine({**EROFS, "storage-opts": WAYS[request.param]})
    try:
        made.start()
        made.load()
        yield made
    finally:
        left = made.close()
    assert left == []


@pytest.fixture
def index() -> Iterator[Engine]:
    made = Engine(EROFS)
    try:
        made.start()
        yield made
    finally:
        left = made.close()
    assert left == []


def layered() -> Image:
    below = {"etc/one": b"1\n", "etc/gone": b"x", "dir/a": b"a", "dir/b": b"b", "opaque/old": b"o"}
    above = {"etc/.wh.gone": b"", "dir/b": b"new\n", "opaque/.wh..wh..opq": b"", "opaque/new": b"n"}
    return image([layer(busybox()), layer(below), layer(above)])


def sound(engine: Engine) -> None:
    found = json.loads(engine.orlop("system", "check", "--format", "json").out)
    assert found["findings"] == [] if "findings" in found else found == []


def _layers(engine: Engine) -> list[Path]:
    return sorted(path.parent for path in (engine.data_root / "erofs").glob("*/layer.erofs"))


def test_container_runs_from_pulled_erofs_layers_which_are_removed_with_the_image(engine: Engine, tmp_path: Path) -> None:
    with running() as registry:
        push(registry.host, "layered", "latest", layered())
        name = f"{registry.host}/layered:latest"
        engine.ok("pull", name)
        engine.ok("tag", name, "layered")
        engine.ok("rmi", name)
    assert "erofs" in engine.ok("info", "--format", "{{.Driver}} {{.DriverStatus}}")
    assert len(_layers(engine)) == 3  # the lowest layer is also the layer of busybox
    shown = engine.ok("run", "--rm", "layered", "sh", "-c", "cat /etc/one /dir/a /dir/b; ls /etc/gone /opaque; true")
    assert shown.split() == ["1", "anew", "/opaque:", "new"]

    engine.ok("run", "-d", "--name", "cc", "layered", "sh", "-c", "rm -r /dir; echo w > /etc/one; mkdir /m; sleep 600")
    until(lambda: engine.docker("exec", "cc", "test", "-d", "/m").code == 0)
    assert engine.ok("diff", "cc").splitlines() == ["D /dir", "C /etc", "C /etc/one", "A /m"]
    (tmp_path / "in").write_text("copied\n")
    engine.ok("cp", str(tmp_path / "in"), "cc:/m/in")
    engine.ok("cp", "cc:/etc/one", str(tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "w\n"
    engine.ok("cp", "cc:/opaque/new", str(tmp_path / "new"))
    assert (tmp_path / "new").read_text() == "n"

    engine.ok("commit", "cc", "committed")
    assert engine.ok("run", "--rm", "committed", "sh", "-c", "cat /etc/one /m/in; ls /").split()[:2] == ["w", "copied"]
    with tarfile.open(fileobj=io.BytesIO(engine.docker("export", "cc", check=0).stdout)) as tar:
        names = set(tar.getnames())
    assert {"m/in", "etc/one", "opaque/new"} <= names and not {"dir", "dir/a", "etc/gone", "opaque/old"} & names

    engine.ok("stop", "-t", "0", "cc")
    engine.ok("cp", str(tmp_path / "in"), "cc:/stopped")
    engine.ok("cp", "cc:/stopped", "-")
    assert "A /stopped" in engine.ok("diff", "cc").splitlines()
    engine.ok("start", "cc")
    assert engine.ok("exec", "cc", "cat", "/m/in") == "copied"
    size = engine.inspect("cc")
    assert size["GraphDriver"]["Name"] == "erofs" and Path(size["GraphDriver"]["Data"]["UpperDir"], "m/in").exists()
    sound(engine)

    engine.restart()
    assert engine.ok("exec", "cc", "cat", "/m/in") == "copied"
    engine.kill()
    engine.start()
    assert engine.ok("exec", "cc", "cat", "/m/in") == "copied"
    engine.ok("run", "--rm", "committed", "true")
    sound(engine)

    engine.ok("rm", "-f", "cc")
    engine.ok("rmi", "committed", "layered", BUSYBOX)
    until(lambda: not _layers(engine))
    assert os.listdir(engine.data_root / "erofs") == [".orlop"]
    sound(engine)


def test_erofs_layers_can_be_used_with_volumes_and_image_mounts_and_a_read_only_root(index: Engine) -> None:
    index.load()
    index.docker("load", stdin=docker_archive({"layered:latest": layered()}), check=0)
    index.ok("run", "-d", "--name", "vv", "-v", "data:/dir", "layered", "sleep", "600")  # fills the volume from the image
    assert index.ok("exec", "vv", "cat", "/dir/b") == "new"
    host = {"ReadonlyRootfs": True, "Mounts": [{"Type": "image", "Source": "layered", "Target": "/image"}]}
    body = {"Image": "layered", "Cmd": ["sh", "-c", "cat /image/dir/b; sleep 600"], "HostConfig": host}
    status, made = index.api("POST", "/containers/create?name=ii", body)
    assert status == 201, made
    index.ok("cp", "ii:/image/dir/b", "-")
    index.ok("start", "ii")
    until(lambda: index.ok("logs", "ii") == "new")
    assert (
        index.ok("run", "--rm", "--read-only", "-w", "/dir", "layered", "sh", "-c", "touch x || cat b").split()[-1] == "new"
    )
    index.ok("cp", "ii:/image/dir/b", "-")
    # an image of one layer, and one without layers
    assert index.ok("run", "--rm", BUSYBOX, "echo", "well") == "well"
    index.docker("load", stdin=docker_archive({"none:latest": image([])}), check=0)
    index.ok("create", "--name", "empty", "none", "/x")
    index.ok("cp", str(Path(__file__)), "empty:/x")
    sound(index)


def test_partial_layer_of_a_killed_daemon_is_removed_at_the_next_start(index: Engine) -> None:
    big = docker_archive({"big:latest": image([layer({f"d/{n}": os.urandom(200_000) for n in range(400)})])})

    def load() -> None:
        index.docker("load", stdin=big)

    client = threading.Thread(target=load)
    client.start()
    until(lambda: list((index.data_root / "erofs").glob("*/layer.tar")))
    index.kill()
    client.join()
    index.start()
    until(lambda: os.listdir(index.data_root / "erofs") == [".orlop"], "the partial layer is removed")
    assert not subprocess.run(["pgrep", "-f", f"mkfs.erofs.*{index.data_root}"], capture_output=True, check=False).stdout
    assert index.docker("load", stdin=big).code == 0
    sound(index)


def test_system_check_and_docker_run_report_a_damaged_layer(index: Engine) -> None:
    index.docker("load", stdin=docker_archive({"layered:latest": layered()}), check=0)
    index.stop()
    for directory in _layers(index):
        os.truncate(directory / "layer.tar", 1024)
    index.start()
    found = index.orlop("system", "check")
    assert found.code != 0 and "its file layer.tar has 1024 bytes instead of" in found.out
    refused = index.docker("run", "--rm", "layered", "true")
    assert "layer.tar has 1024 bytes instead of" in refused.err and "pull" in refused.err
    index.ok("rmi", "-f", "layered")
    index.docker("load", stdin=docker_archive({"layered:latest": layered()}), check=0)
    index.ok("run", "--rm", "layered", "true")
    sound(index)


def test_first_mount_of_a_layer_verifies_its_digest() -> None:
    engine = Engine({**EROFS, "storage-opts": ["erofs.verify=digest"]})
    try:
        engine.start()
        engine.load()
        engine.ok("run", "--rm", BUSYBOX, "true")
        engine.stop()
        (directory,) = _layers(engine)
        with (directory / "layer.tar").open("r+b") as file:
            file.seek(100_000)
            file.write(b"changed")
        engine.start()
        refused = engine.docker("run", "--rm", BUSYBOX, "true")
        assert "layer.tar has been changed" in refused.err
        assert "layer.tar has been changed" in engine.orlop("system", "check").out
    finally:
        left = engine.close()
    assert left == []


@pytest.mark.parametrize(
    "options, said",
    [
        (["erofs.mode=half"], "invalid erofs.mode 'half': it must be index or full"),
        (["erofs.compression=zstd"], "cannot use erofs.compression without erofs.mode=full"),
        (["erofs.mode=full", "erofs.compression=--version"], "invalid erofs.compression"),
        (["erofs.size=1g"], "this driver has no quotas"),
        (["erofs.colour=red"], "unknown option erofs.colour"),
    ],
)
def test_options_are_validated(options: list[str], said: str) -> None:
    engine = Engine({**EROFS, "storage-opts": options})
    try:
        done = subprocess.run([*engine.command, "--validate"], capture_output=True, text=True, check=False)
        assert done.returncode != 0 and said in done.stderr + done.stdout
    finally:
        engine.close()


def test_missing_mkfs_erofs_is_reported_with_the_package_to_install(tmp_path: Path) -> None:
    """Runs in a mount namespace where a mount hides the program."""
    engine = Engine(EROFS)
    (tmp_path / "empty").touch(mode=0o644)
    try:
        for flags in (["--validate"], []):
            cover = f"mount --bind {tmp_path}/empty $(command -v mkfs.erofs) && exec "
            command = ["unshare", "-m", "sh", "-c", cover + " ".join([*engine.command, *flags])]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
            assert done.returncode != 0
            assert "mkfs.erofs is not installed; install erofs-utils" in done.stderr + done.stdout + engine.log()
    finally:
        engine.close()
