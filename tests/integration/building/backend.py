"""The daemon with the builder process of the tests: fixtures and calls for tests of the daemon's services for builders."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.building.client import BuilderClient, BuildingEngine
from tests.integration.engine import BUSYBOX, until

__all__ = ["base", "building", "built", "client", "opened", "own", "prepared", "ran", "sound"]


def opened(config: dict[str, Any] | None = None) -> BuildingEngine:
    engine = BuildingEngine({"shutdown-timeout": 3, **(config or {})})
    engine.start()
    engine.load()
    return engine


@pytest.fixture(scope="module")
def building() -> Iterator[BuildingEngine]:
    engine = opened()
    yield engine
    assert engine.close() == []


@pytest.fixture
def own() -> Iterator[Callable[..., BuildingEngine]]:
    made: list[BuildingEngine] = []

    def make(config: dict[str, Any] | None = None) -> BuildingEngine:
        made.append(opened(config))
        return made[-1]

    yield make
    for engine in made:
        assert engine.close() == []


@pytest.fixture
def client(building: BuildingEngine) -> Iterator[BuilderClient]:
    made = building.builder()
    yield made
    made.close()
    sound(building)


def sound(engine: BuildingEngine) -> None:
    """Assert that the consistency check finds nothing, and that nothing runs."""
    found: list[object] = []

    def checked() -> bool:
        found[:] = engine.api("GET", "/orlop/check")[1]["findings"]
        return not found

    try:
        until(checked, "the check finds nothing", 20)
    except AssertionError:
        raise AssertionError(found) from None
    until(lambda: os.listdir(engine.exec_root / "run") == [], "no run is left")
    until(lambda: os.listdir(engine.exec_root / "mnt") == [], "no mount point is left")
    until(lambda: [path for path in _cgroups(engine) if path.is_dir()] == [], "no cgroup is left")


def _cgroups(engine: BuildingEngine) -> list[Path]:
    root = Path("/sys/fs/cgroup")
    parents = (root / engine.cgroup_parent, *root.glob(f"*/{engine.cgroup_parent}"))
    return [inner for parent in parents if parent.exists() for inner in parent.iterdir()]


def base(client: BuilderClient) -> dict[str, Any]:
    found: dict[str, Any] = client.result("base", name=BUSYBOX)
    return found


def prepared(client: BuilderClient) -> str:
    return str(client.result("prepare", parent=base(client)["snapshot"]))


def ran(client: BuilderClient, script: str, key: str = "", **step: Any) -> dict[str, Any]:
    root = key or prepared(client)
    found = client.call("run", root=root, args=["sh", "-c", script], **step)
    if not key:
        client.result("remove", key=root)
    return found


def built(client: BuilderClient, name: str, text: str) -> tuple[str, str]:
    """Build an image with one layer on the base. Returns the image's ID and the layer's snapshot."""
    found = base(client)
    key = client.result("prepare", parent=found["snapshot"])
    client.result("write", key=key, path="/made", text=text)
    made = client.result("commit", key=key)
    config = json.loads(found["config"])
    config["rootfs"]["diff_ids"].append(client.result("pack", key=made)["diff_id"])
    snapshots = [found["snapshot"], made]
    image = client.result("create_image", config=json.dumps(config), snapshots=snapshots, names=[name] if name else [])
    return image, made
