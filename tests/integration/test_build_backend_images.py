"""The daemon's services for a builder: images, snapshots and the build cache."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.integration.building.backend import base, building, built, client, own, prepared, ran, sound
from tests.integration.building.client import BuilderClient, BuildingEngine
from tests.integration.engine import BUSYBOX, UnixConnection

__all__ = ["building", "client", "own"]  # fixtures

pytestmark = pytest.mark.root


def test_an_image_shares_its_layer_with_the_cache(own: Callable[..., BuildingEngine]) -> None:
    engine = own()
    client = engine.builder()
    image, key = built(client, "made:1", "first")
    assert engine.ok("run", "--rm", "made:1", "cat", "/made") == "first"
    assert engine.ok("image", "ls", "-q", "--no-trunc", "made:1") == image
    told = engine.ok("events", "--since", "1h", "--until", f"{time.time() + 1:.3f}", "--filter", "event=tag")
    assert [line.partition(" ")[2] for line in told.splitlines()] == [f"image tag {image} (name=made:1)"]
    client.result("remove", key=key)  # a prune of the cache
    assert client.result("snapshots") == []
    assert engine.ok("run", "--rm", "made:1", "cat", "/made") == "first"
    client.close()
    engine.restart()
    assert engine.ok("run", "--rm", "made:1", "cat", "/made") == "first"
    engine.ok("rmi", "made:1")
    sound(engine)
    assert not [name for name in _keys(engine) if name.startswith("build-")]


def test_the_cache_keeps_the_layer_of_a_removed_image(own: Callable[..., BuildingEngine]) -> None:
    engine = own()
    client = engine.builder()
    _, key = built(client, "made:1", "text")
    assert engine.ok("rmi", "made:1").count("Deleted") == 1, "the layer is the cache's"
    assert client.result("snapshots") == [key]
    assert client.result("read", key=key, path="/made") == "text"
    client.close()
    engine.kill()
    engine.start()
    again = engine.builder()
    assert again.result("snapshots") == [key]
    other = built(again, "made:2", "other")[1]
    assert other != key and engine.ok("run", "--rm", "made:2", "cat", "/made") == "other"
    again.result("remove", key=key)
    assert again.result("snapshots") == [other]
    again.close()
    sound(engine)


def test_base_image_is_kept_until_the_last_build_has_released_the_image(own: Callable[..., BuildingEngine]) -> None:
    engine = own()
    client = engine.builder()
    found, again = base(client), base(client)
    assert again == found
    client.result("release", digest=found["digest"])
    client.result("remove", key=client.result("prepare", parent=found["snapshot"]))
    client.result("release", digest=found["digest"])
    assert "does not exist" in client.call("prepare", parent=found["snapshot"])["error"]
    client.result("release", digest=found["digest"])
    client.close()


def test_image_can_be_made_from_cached_snapshots_after_its_base_was_removed(
    own: Callable[..., BuildingEngine], tmp_path: Path
) -> None:
    """The base is removed while only the cache uses it. An image that is made from the cache can still be saved."""
    engine = own()
    client = engine.builder()
    found = base(client)
    key = client.result("prepare", parent=found["snapshot"])
    client.result("write", key=key, path="/made", text="x")
    made = client.result("commit", key=key)
    client.result("release", digest=found["digest"])
    engine.ok("rmi", BUSYBOX)
    engine.ok("image", "prune", "-af")
    client.close()
    engine.restart()
    client = engine.builder()
    config = json.loads(found["config"])
    config["rootfs"]["diff_ids"].append(client.result("pack", key=made)["diff_id"])
    client.result("create_image", config=json.dumps(config), snapshots=[found["snapshot"], made], names=["late:1"])
    engine.ok("save", "-o", str(tmp_path / "late.tar"), "late:1")
    engine.ok("rmi", "late:1")
    client.result("remove", key=made)
    client.close()
    sound(engine)
    assert not [name for name in _keys(engine) if name.startswith(("build-", "sha256:"))], "nothing uses the base"
    engine.ok("load", "-i", str(tmp_path / "late.tar"))
    assert engine.ok("run", "--rm", "late:1", "cat", "/made") == "x"


def _keys(engine: BuildingEngine) -> list[str]:
    """The keys of the storage driver's snapshots."""
    index = engine.data_root / "overlay2" / ".orlop"
    if not index.exists():
        pytest.skip("the storage driver has another layout")
    return [name for part in ("active", "committed") for name in os.listdir(index / part)]


def test_parent_of_another_snapshot_cannot_be_removed(client: BuilderClient) -> None:
    lower = client.result("commit", key=client.result("prepare", parent=""))
    upper = client.result("commit", key=client.result("prepare", parent=lower))
    assert client.call("remove", key=lower)["kind"] == "Conflict"
    client.result("remove", key=upper)
    client.result("remove", key=lower)
    client.result("remove", key=lower)  # no snapshot is above it any more
    assert client.call("prepare", parent=lower)["kind"] == "NotFound"
    assert client.call("mounts", key=lower)["kind"] == "NotFound"
    assert client.call("commit", key=lower)["kind"] == "NotFound"


def test_committed_layer_with_known_content_is_shared(client: BuilderClient, building: BuildingEngine) -> None:
    """A committed layer whose content equals a layer of an image becomes this layer."""
    key = client.result("prepare", parent="")
    assert ran(client, "true", key).get("kind"), "there is no shell in an empty root"
    client.result("remove", key=key)
    made = []
    for _ in range(2):
        key = prepared(client)
        assert ran(client, "echo same > /same; touch -d @1000 /same", key)["code"] == 0
        made.append(client.result("commit", key=key))
    found = base(client)
    config = json.loads(found["config"])
    config["rootfs"]["diff_ids"].append(client.result("pack", key=made[0])["diff_id"])
    assert client.result("pack", key=made[1])["diff_id"] == config["rootfs"]["diff_ids"][-1]
    for number, key in enumerate(made):
        config["comment"] = str(number)
        snapshots = [found["snapshot"], key]
        client.result("create_image", config=json.dumps(config), snapshots=snapshots, names=[f"same:{number}"])
    client.result("remove", key=made[1])
    assert building.ok("run", "--rm", "same:1", "cat", "/same") == "same"
    building.ok("rmi", "same:0")
    client.result("remove", key=made[0])
    assert building.ok("run", "--rm", "same:1", "cat", "/same") == "same"
    building.ok("rmi", "same:1")


def test_images_with_inconsistent_layers_are_refused(client: BuilderClient) -> None:
    found = base(client)
    config = json.loads(found["config"])
    answer = client.call("create_image", config=json.dumps(config), snapshots=[], names=[])
    assert answer["kind"] == "InvalidParameter"
    config["rootfs"]["diff_ids"] = ["sha256:" + "0" * 64]
    answer = client.call("create_image", config=json.dumps(config), snapshots=[found["snapshot"]], names=[])
    assert answer["kind"] == "InvalidParameter" and "lists layers that the image does not have" in answer["error"]
    assert client.call("create_image", config="{", snapshots=[], names=[])["kind"] == "InvalidParameter"
    assert client.call("create_image", config=found["config"], snapshots=["build-x"], names=[])["kind"] == "NotFound"


def test_stored_image_is_found_by_a_name_with_a_digest(client: BuilderClient) -> None:
    found = base(client)
    named = f"docker.io/library/{BUSYBOX}@{found['digest']}"
    assert client.result("resolve", name=named, pull=True)["digest"] == found["digest"]
    assert client.result("base", name=named)["snapshot"] == found["snapshot"]
    assert "error" in client.call("resolve", name="localhost:1/nope")


def test_archives_are_unpacked_into_directories(client: BuilderClient, tmp_path: Path) -> None:
    root = Path(client.hello["settings"]["root"], "unpacked")
    root.mkdir()
    (tmp_path / ".wh.name").write_text("no whiteout")
    archive = tmp_path / "a.tar.gz"
    subprocess.run(["tar", "-C", tmp_path, "-czf", archive, ".wh.name"], check=True)
    client.result("unpack", archive=str(archive), directory=str(root))
    assert (root / ".wh.name").read_text() == "no whiteout"
    archive.write_bytes(b"no archive" * 100)
    assert client.call("unpack", archive=str(archive), directory=str(root))["kind"] == "InvalidParameter"


def test_worker_copies_files_for_the_builder(client: BuilderClient, tmp_path: Path) -> None:
    for name in ("source", "target"):
        (tmp_path / name).mkdir()
    for number in range(50):
        (tmp_path / "source" / str(number)).write_text(f"content {number}")
    names = [str(number) for number in range(50)]
    asked = {"source": str(tmp_path / "source"), "target": str(tmp_path / "target")}
    assert client.result("copy_files", names=[*names, "missing"], **asked) == ["missing"]
    assert [(tmp_path / "target" / name).read_text() for name in names] == [f"content {name}" for name in names]
    assert client.result("copy_files", names=names, **asked) == names  # not copied, because the targets exist


def test_kill_of_the_daemon_leaves_no_incomplete_snapshot_or_image(own: Callable[..., BuildingEngine]) -> None:
    """A snapshot exists or not, and an image exists completely or not at all. An image that was acknowledged exists, with
    its snapshots."""
    engine = own()
    for number, delay in enumerate([0.0, 0.002, 0.005, 0.01, 0.02] * 2):
        acknowledged = number == 8
        client = engine.builder()
        found = base(client)
        key = client.result("prepare", parent=found["snapshot"])
        client.result("write", key=key, path="/made", text=str(number))
        made = client.result("commit", key=key)
        active = client.result("prepare", parent=made)
        config = json.loads(found["config"])
        if number % 2:
            client.send("commit", key=active)
        else:
            config["rootfs"]["diff_ids"].append(client.result("pack", key=made)["diff_id"])
            args = {"config": json.dumps(config), "snapshots": [found["snapshot"], made], "names": ["made:1"]}
            (client.result if acknowledged else client.send)("create_image", **args)
        time.sleep(delay)
        engine.kill()
        client.close()
        engine.start()
        sound(engine)
        client = engine.builder()
        left = client.result("snapshots")
        assert len(left) <= 2, (number, left)
        there = engine.ok("image", "ls", "-q", "made:1")
        assert there or not acknowledged
        if there:
            assert made in left
            assert engine.ok("run", "--rm", "made:1", "cat", "/made") == str(number)
            engine.ok("rmi", "made:1")
        for each in sorted(left, key=lambda one: one == made):
            client.result("remove", key=each)
        client.close()
        sound(engine)
        assert not [name for name in _keys(engine) if name.startswith("build-")]


def test_build_cache_is_shown_in_disk_usage_and_pruned(building: BuildingEngine) -> None:
    found = building.api("GET", "/v1.43/system/df?type=build-cache")[1]["BuildCache"]
    assert found[0]["ID"] == "abc" and found[0]["Size"] == 123 and found[0]["CreatedAt"].startswith("2001-09-09T01:46:40")
    pruned = building.api("POST", '/build/prune?all=1&keep-storage=7&filters={"until":["24h"]}')[1]
    assert json.loads(pruned["CachesDeleted"][0]) == [{"until": ["24h"]}, True, 7, 0, 0]
    assert pruned["SpaceReclaimed"] == 5
    assert building.api("POST", '/build/prune?filters={"bogus":["1"]}')[0] == 200, "as in dockerd"
    assert "cancelled x" in building.api("POST", "/build/cancel?id=x")[1]["message"]
    connection = UnixConnection(building.socket)
    connection.request("HEAD", "/_ping")
    assert connection.getresponse().headers["Builder-Version"] == "2"
    connection.close()


def test_upgrade_to_another_protocol_is_refused(building: BuildingEngine) -> None:
    for headers, text in (
        ("", "no upgrade proto"),
        ("Connection: Upgrade\r\nUpgrade: tcp\r\n", "protocol tcp not supported"),
    ):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(building.socket)
            sock.sendall(f"POST /grpc HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode())
            answer = sock.recv(65536).decode()
        assert answer.startswith("HTTP/1.1 400 ") and text in answer
