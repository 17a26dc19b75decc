"""A client of a restricted listener knows digests and diffIDs of layers, but does not have the layers. The client cannot
get these layers into an image of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.engine import Engine
from tests.registry import Image, busybox, docker_archive, image, layer
from tests.registry.build import tar
from tests.registry.hostile import Hostile, serving

pytestmark = pytest.mark.root

TEAM = "com.example.team"
BASE = layer(busybox())
SECRET = layer({"secret": b"of another team"})
THEIRS = image([BASE, SECRET])
MINE = image([BASE, SECRET], config={"Labels": {TEAM: "web"}, "Cmd": ["cat", "/secret"]})


@pytest.fixture(scope="module", params=["overlay2", "erofs"])
def attacked(request: pytest.FixtureRequest) -> Iterator[tuple[Engine, Hostile]]:
    """A container of another team has layers that belong to no image, because its image was removed. The attacker controls
    the registry."""
    with serving() as registry:
        made = Engine()
        try:
            listeners = [
                {"host": f"unix://{made.home}/ci.sock", "role": "no-exec"},
                {"host": f"unix://{made.home}/web.sock", "role": "full", "labels": [f"{TEAM}=web"], "shared-images": True},
            ]
            made.configure({"listeners": listeners, "insecure-registries": [registry.host], "storage-driver": request.param})
            made.start()
            made.ok("load", stdin=docker_archive({"theirs:1": THEIRS}))
            made.ok("create", "--name", "theirs", "-l", f"{TEAM}=db", "theirs:1", "true")
            made.ok("rmi", "-f", "theirs:1")
            assert made.ok("images", "-aq") == ""
            yield made, registry
        finally:
            left = made.close()
        assert left == []


def on(engine: Engine, listener: str, *argv: str) -> tuple[int, str]:
    result = engine.run(["docker", "-H", f"unix://{engine.home}/{listener}.sock", *argv])
    return result.code, result.out + result.err


def archive_of(attack: Image, members: list[bytes]) -> bytes:
    names = [f"{number}.tar" for number in range(len(members))]
    entry = {"Config": "config.json", "RepoTags": ["attack:1"], "Layers": names}
    files = dict(zip(names, members, strict=True))
    return tar({"config.json": attack.config.data, **files, "manifest.json": json.dumps([entry]).encode()})


@pytest.mark.parametrize("listener", ["ci", "web"])
def test_pull_of_a_manifest_without_its_layers_is_refused(attacked: tuple[Engine, Hostile], listener: str) -> None:
    engine, registry = attacked
    registry.add("attack", listener, MINE)
    for part in MINE.layers:
        registry._blobs.pop(part.digest, None)
    name = f"{registry.host}/attack:{listener}"
    code, said = on(engine, listener, "pull", name)
    assert code != 0 and "not here" in said, said
    assert on(engine, listener, "run", "--rm", "--pull", "never", name)[0] != 0
    registry.add("attack", listener, MINE)
    assert on(engine, listener, "pull", name)[0] == 0, "a registry that has the layers is believed"
    assert "of another team" in on(engine, listener, "run", "--rm", name)[1]
    engine.ok("rmi", name)


def test_load_of_an_archive_without_its_layers_is_refused(attacked: tuple[Engine, Hostile], tmp_path: Path) -> None:
    engine, _ = attacked
    for members in ([b"", b""], [layer({"x": b""}, compression="none").data] * 2, [BASE.data, BASE.data]):
        (tmp_path / "attack.tar").write_bytes(archive_of(MINE, members))
        code, said = on(engine, "ci", "load", "-i", str(tmp_path / "attack.tar"))
        assert code != 0, said
        assert "No such image" in on(engine, "ci", "image", "inspect", "attack:1")[1]
    (tmp_path / "right.tar").write_bytes(archive_of(MINE, [BASE.data, SECRET.data]))
    assert on(engine, "ci", "load", "-i", str(tmp_path / "right.tar"))[0] == 0
    engine.ok("rmi", "attack:1")
