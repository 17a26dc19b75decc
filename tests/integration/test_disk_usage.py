"""The sum of `system df` equals the space that the data root uses. The disk is a tmpfs."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.engine import BUSYBOX, Engine
from tests.registry import busybox, docker_archive, image, index, layer, push_index, running

from orlop_engine.images import platforms

pytestmark = pytest.mark.root

MB = 1_000_000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400m", "orlop-test", path], check=True)
    yield path
    subprocess.run(["umount", path], check=True)


def noise(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


BASE = layer({**busybox(), "base": noise(12 * MB, 1)})
ONE = image([BASE, layer({"one": noise(6 * MB, 2)})])
TWO = image([BASE, layer({"two": noise(5 * MB, 3)}, compression="none")])
OTHER = image([layer({"other": noise(8 * MB, 4)})], platform={"os": "linux", "architecture": "s390x"})


def used(disk: Path) -> int:
    """Bytes of the data root's files, as `du` counts their blocks, without the database and the files of running
    containers."""
    total = 0
    for name in ("content", "overlay2", "volumes"):
        out = subprocess.run(["du", "-s", "-B1", disk / "data" / name], check=True, capture_output=True, text=True).stdout
        total += int(out.split()[0])
    return total


def df(engine: Engine, version: str = "1.51") -> dict[str, Any]:
    status, body = engine.api("GET", f"/v{version}/system/df")
    assert status == 200
    return dict(body)


def total(found: dict[str, Any]) -> int:
    containers = sum(item.get("SizeRw", 0) for item in found["Containers"])
    volumes = sum(item["UsageData"]["Size"] for item in found["Volumes"])
    return int(found["LayersSize"]) + containers + volumes


def agree(engine: Engine, disk: Path) -> None:
    ours, theirs = total(df(engine)), used(disk)
    assert abs(ours - theirs) <= theirs / 100, (ours, theirs)


def test_sum_of_disk_usage_equals_the_used_space_of_the_disk(disk: Path, fresh: Callable[..., Engine]) -> None:
    """Counts shared layers, blobs, two platforms, a writable layer, a volume, and an image that only a container needs."""
    engine = fresh(config={"bridge": "none"}, data_root=disk / "data")
    engine.ok("rmi", BUSYBOX)
    engine.docker("load", "-q", stdin=docker_archive({"one:1": ONE, "two:1": TWO}), check=0)
    agree(engine, disk)
    here = {"os": "linux", "architecture": platforms.default().architecture}
    mine = image([BASE, layer({"mine": noise(4 * MB, 5)})], platform=here)
    with running() as registry:
        both = index([OTHER, mine])
        push_index(registry.host, "multi", "v1", both, (OTHER, mine))
        engine.ok("pull", "-q", f"{registry.host}/multi:v1")
        engine.ok("pull", "-q", "--platform", "linux/s390x", f"{registry.host}/multi:v1")
        agree(engine, disk)
    script = "head -c 3000000 /dev/urandom >/x; head -c 4000000 /dev/urandom >/v/y"
    engine.ok("run", "--network", "none", "--name", "writer", "-v", "sea:/v", "one:1", "sh", "-c", script)
    agree(engine, disk)

    items = {(item["RepoTags"] or [""])[0]: item for item in df(engine)["Images"]}
    multi = items[f"{registry.host}/multi:v1"]
    assert multi["Size"] - multi["SharedSize"] == pytest.approx(2 * 12 * MB, rel=0.01), "8 and 4 MB, unpacked and as blobs"
    own = sum(item["Size"] - item["SharedSize"] for item in items.values())
    shared = max(item["SharedSize"] for item in items.values())
    assert own + shared == pytest.approx(df(engine)["LayersSize"], rel=0.01)

    engine.ok("rmi", "-f", "one:1")
    agree(engine, disk)
    before = used(disk)
    status, report = engine.api(
        "POST", f"/v1.51/images/prune?filters={json.dumps({'dangling': ['false']})}".replace(" ", "")
    )
    assert status == 200
    assert report["SpaceReclaimed"] == pytest.approx(before - used(disk), rel=0.01)
    agree(engine, disk)
    engine.ok("rm", "-f", "writer")
    engine.ok("volume", "rm", "sea")
    engine.ok("system", "prune", "-a", "-f")
    assert total(df(engine)) == 0 and used(disk) < MB


def test_clients_of_older_api_versions_get_sizes_without_compressed_blobs(disk: Path, fresh: Callable[..., Engine]) -> None:
    engine = fresh(config={"bridge": "none"}, data_root=disk / "data")
    engine.ok("rmi", BUSYBOX)
    engine.docker("load", "-q", stdin=docker_archive({"one:1": ONE, "two:1": TWO}), check=0)
    old, new = df(engine, "1.46"), df(engine)
    sizes = {item["RepoTags"][0]: (item["Size"], item["SharedSize"]) for item in old["Images"]}
    listed = {item["RepoTags"][0]: item["Size"] for item in engine.api("GET", "/v1.46/images/json")[1]}
    assert {name: size for name, (size, _) in sizes.items()} == listed
    assert old["LayersSize"] == sizes["one:1"][0] + sizes["two:1"][0] - sizes["one:1"][1]
    assert new["LayersSize"] > 1.9 * old["LayersSize"]


def test_interrupted_download_is_included_in_disk_usage(disk: Path, fresh: Callable[..., Engine]) -> None:
    engine = fresh(config={"bridge": "none"}, data_root=disk / "data")
    engine.ok("rmi", BUSYBOX)
    partial = disk / "data" / "content" / "ingest" / ("ab" * 32)
    partial.write_bytes(bytes(3 * MB))
    assert df(engine)["LayersSize"] == 3 * MB
    engine.ok("image", "prune", "-f")
    assert df(engine)["LayersSize"] == 0 and not os.path.exists(partial)
