"""A Docker root made by a real dockerd is adopted in place, used, and given back: `orlop system adopt`, `give-back`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.adopting import Side, adopting, running, system
from tests.integration.docker_root import APP, MAC, app, snapshot
from tests.integration.engine import Engine, until
from tests.registry import push
from tests.registry import server as registry

from orlop_engine.images import documents
from orlop_engine.images.tar_split import paths_of

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(180),
    pytest.mark.skipif(not shutil.which("dockerd"), reason="no dockerd to take a root from"),
]

NAMES = ["created", "exited", "fixed", "joined", "limited", "linked", "plain", "stopped", "two"]


@pytest.fixture(scope="module", params=[False, True], ids=["overlay2", "containerd"])
def side(request: pytest.FixtureRequest) -> Iterator[Side]:
    home = Path(tempfile.mkdtemp(prefix="otd-", dir="/tmp"))
    made = None
    try:
        made = Side(home, lambda docker: docker.fill(), containerd=request.param)
        yield made
    finally:
        if made is not None:
            made.dockerd.close()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def adopter() -> Iterator[Engine]:
    with adopting() as engine:
        yield engine


def test_adopted_objects_are_used_in_place_and_given_back(side: Side, adopter: Engine) -> None:
    root = side.dockerd.root
    untouched = snapshot(root)
    began = time.monotonic()
    report = json.loads(system(adopter, "adopt", str(root), "--format", "json").out)
    took = time.monotonic() - began
    assert snapshot(root) == untouched, "nothing in the Docker root was changed"
    assert report["done"] and report["counts"]["container"] == {"adopted": 9, "left": 0}, report
    assert [each for each in report["objects"] if not each["adopted"]] == [
        {
            "kind": "build cache",
            "name": "",
            "id": "",
            "adopted": False,
            "text": "the cache of `docker build` is not adopted",
        }
    ]
    assert took < 10, "metadata only"

    adopter.start()
    assert running(adopter) == ["fixed", "plain"], "those whose policy says so, and no others"
    until(lambda: {adopter.state(name) for name in ("fixed", "plain")} == {"running"}, "they are started")
    assert "\n".join(side.compare(adopter, adopter.data_root)) == ""
    assert sorted(adopter.ok("ps", "-a", "--format", "{{.Names}}").split()) == NAMES
    _use(side, adopter)
    check = json.loads(adopter.orlop("system", "check", "--format", "json").out)
    assert check == {"findings": [], "ok": True}
    adopter.ok("rm", "-f", "limited", "created")
    adopter.ok("rmi", "committed:1")
    adopter.ok("stop", "-t", "0", *running(adopter))
    adopter.stop()
    left = snapshot(root)
    assert {path for path in untouched if path not in left} == set(), "a removal here removes nothing there"

    system(adopter, "give-back")
    side.dockerd.start()
    docker = side.dockerd
    assert sorted(docker.ok("ps", "-a", "--format", "{{.Names}}").split()) == NAMES
    docker.ok("start", "linked", "two", "exited", "limited")
    assert docker.ok("exec", "plain", "cat", "/up", "/data/f", "/from-orlop", "/data/g") == "upper\nvolume\nhere\nthere"
    assert docker.ok("logs", "exited").split() == ["first"] * 3
    docker.stop()
    adopter.start()
    assert adopter.ok("ps", "-aq") == "" and adopter.ok("images", "-q") == "" and adopter.ok("volume", "ls", "-q") == ""
    assert os.listdir(adopter.data_root / "containers") == []


def _use(side: Side, engine: Engine) -> None:
    assert engine.ok("exec", "plain", "cat", "/up", "/data/f") == "upper\nvolume"
    engine.ok("exec", "plain", "sh", "-c", "echo here > /from-orlop; echo there > /data/g")
    assert engine.address("fixed", "fixed") == f"{side.dockerd.subnet}.7"
    assert engine.ok("exec", "fixed", "ls", "/d").split() == ["hard", "link", "new"], "a layer's whiteout is one"
    port = engine.ok("port", "fixed", "80").rpartition(":")[2]
    engine.ok("exec", "-d", "fixed", "busybox", "httpd", "-f", "-p", "80", "-h", "/d")
    assert until(lambda: _get(f"http://127.0.0.1:{port}/new"), "the published port") == b"new"
    engine.ok("start", "linked", "two", "joined", "limited", "exited")
    assert engine.inspect("two")["NetworkSettings"]["Networks"]["chosen"]["MacAddress"] == MAC
    engine.ok("exec", "linked", "ping", "-c1", "-W5", "db")
    until(lambda: engine.state("exited") == "exited", "the run of exited")
    assert engine.ok("logs", "exited").split() == ["first", "first"], "the log goes on"
    assert engine.ok("exec", "limited", "sh", "-c", "ulimit -n") == "100"
    assert engine.ok("run", "--rm", "--network", "none", APP, "cat", "/d/new") == "new"
    assert engine.ok("diff", "exited") == "A /file"
    assert set(engine.ok("diff", "plain").split("\n")) == {"A /up", "A /from-orlop", "A /data"}
    _send_elsewhere(engine)


def _send_elsewhere(engine: Engine) -> None:
    """Save and push an image. Layers without a blob are packed from their files."""
    saved = engine.docker("save", APP, check=0).stdout
    engine.ok("tag", APP, "renamed:1")
    assert f"Loaded image: {APP}" in engine.docker("load", stdin=saved, check=0).out
    assert engine.ok("images", "-q", "--no-trunc", APP) == engine.ok("images", "-q", "--no-trunc", "renamed:1")
    engine.ok("rmi", "renamed:1")
    with registry.running() as server:
        name = f"{server.host}/other:1"
        engine.ok("tag", "other:1", name)
        digest = engine.ok("push", name).rpartition("digest: ")[2].split()[0]
        assert digest.startswith("sha256:")
        engine.ok("rmi", name)
        assert digest in engine.ok("pull", name)
        assert engine.ok("images", "-q", name) == engine.ok("images", "-q", "other:1")
        engine.ok("rmi", name)


def _get(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bytes(answer.read())
    except OSError:
        return b""


class AdoptingEngine(Engine):
    """An engine whose daemon is started with `--adopt`."""

    root = ""

    @property
    def command(self) -> list[str]:
        return [*super().command, "--adopt", self.root]


def test_start_with_adopt_adopts_the_docker_root_only_once(side: Side) -> None:
    engine = AdoptingEngine()
    engine.root = str(side.dockerd.root)
    try:
        engine.start()
        assert f"adopted {engine.root}: 4 images, 9 containers, 4 volumes, 5 networks; not adopted: 1" in engine.log()
        assert sorted(engine.ok("ps", "-a", "--format", "{{.Names}}").split()) == NAMES
        engine.restart()
        assert engine.log().count("adopted ") == engine.log().count(f"adopted {engine.root}: ") == 2, "once, and the cache"
        engine.stop()
        system(engine, "give-back")
    finally:
        assert engine.close() == []


def test_adoption_is_refused_while_dockerd_runs(side: Side, adopter: Engine) -> None:
    side.dockerd.start()
    try:
        for argv in (("adopt", str(side.dockerd.root), "--dry-run"), ("adopt", str(side.dockerd.root))):
            refused = system(adopter, *argv, check=1)
            assert "a running dockerd has it open. Stop it first: systemctl stop docker.socket docker" in refused.err
    finally:
        side.dockerd.stop()


def test_save_of_an_image_without_its_tar_split_file_is_refused(side: Side, adopter: Engine) -> None:
    """The layer has neither a blob nor a tar-split file: a push and a save report this, and a pull fetches the blob."""
    if side.containerd:
        pytest.skip("its layers have blobs")
    system(adopter, "adopt", str(side.dockerd.root))
    adopter.start()
    chain = documents.chain_ids([each.diff_id for each in app().layers])[-1]
    (adopter.data_root / "content" / paths_of(chain)[0]).unlink()
    assert "the file that describes its tar is missing. Pull the image again" in adopter.docker("save", APP, check=1).err
    with registry.running() as server:
        push(server.host, "app", "1", app())
        adopter.ok("pull", f"{server.host}/app:1")
        assert adopter.ok("images", "-q", f"{server.host}/app:1") == adopter.ok("images", "-q", APP)
        adopter.ok("rmi", f"{server.host}/app:1")
    assert adopter.docker("save", APP, check=0).stdout
    adopter.ok("stop", "-t", "0", *running(adopter))
    adopter.stop()
    system(adopter, "give-back")


def test_adopted_objects_that_dockerd_removed_are_reported_at_the_next_start(side: Side, adopter: Engine) -> None:
    """dockerd runs on the adopted root and removes objects. orlopd logs this, and starts with the remaining objects."""
    docker = side.dockerd
    system(adopter, "adopt", str(docker.root))
    adopter.start()
    assert subprocess.run(["flock", "-n", docker.root / "network/files/local-kv.db", "true"], check=False).returncode == 1
    assert subprocess.run(["flock", "-n", docker.root / "volumes/metadata.db", "true"], check=False).returncode == 1
    adopter.stop()

    docker.start()
    docker.ok("rm", "-f", "two")
    docker.ok("rmi", "committed:1")
    docker.ok("volume", "create", "newer")
    docker.stop()
    adopter.start()
    log = adopter.log()
    assert f"dockerd has run on the adopted root {docker.root} since" in log
    assert "dockerd has removed 1 adopted containers: " in log and "dockerd has 1 volumes that are not adopted" in log
    assert "dockerd has removed 1 adopted images: " in log
    assert "plain" in running(adopter) and adopter.ok("images", "-q", APP)
    assert adopter.ok("images", "-q", "committed:1") == "", "its top layer is gone, so that it is quarantined"
    adopter.stop()
    adopter.start()
    assert adopter.log().count("dockerd has run on") == 1, "it is said once"
    adopter.stop()
    system(adopter, "give-back")


def test_error_of_an_adoption_shows_how_to_remove_a_mount_left_by_dockerd(side: Side, adopter: Engine) -> None:
    """A killed dockerd leaves a bind mount of its root onto the same root. Hard links across this mount are impossible."""
    root = str(side.dockerd.root)
    subprocess.run(["mount", "--bind", root, root], check=True)
    try:
        assert system(adopter, "adopt", root, "--dry-run", check=1).err.endswith(f"Remove it: umount {root}\n")
    finally:
        subprocess.run(["umount", root], check=True)


def test_adopt_for_good_moves_files_and_give_back_moves_the_files_back(side: Side, adopter: Engine) -> None:
    docker, data = side.dockerd, adopter.data_root
    system(adopter, "adopt", str(docker.root), "--for-good")
    assert not any(path.is_symlink() for path in (data / "volumes").iterdir())
    assert not [path for path in (docker.root / "volumes").iterdir() if path.is_dir()]
    adopter.start()
    until(lambda: "plain" in running(adopter), "plain is started")
    assert adopter.ok("exec", "plain", "cat", "/up", "/data/f") == "upper\nvolume"
    adopter.ok("exec", "plain", "sh", "-c", "echo moved > /moved")
    assert json.loads(adopter.orlop("system", "check", "--format", "json").out)["ok"]
    adopter.stop()
    system(adopter, "give-back")
    docker.start()
    assert docker.ok("exec", "plain", "cat", "/up", "/moved") == "upper\nmoved"
    docker.stop()
