"""Images of several platforms with the `docker` client and the API: one name, pulls by platform, containers by platform."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from tests.integration.engine import Engine
from tests.registry import Image, busybox, image, index, layer, push_index, running

from orlop_engine.images import platforms

pytestmark = pytest.mark.root

BINFMT = Path("/proc/sys/fs/binfmt_misc")
S390X = b"\x7fELF\x02\x02\x01" + bytes(9) + b"\x00\x02\x00\x16" + bytes(44)
"""The header of a program for s390x."""
MINE = image([layer(busybox())], platform={"os": "linux", "architecture": platforms.host().architecture})


def emulated(said: str) -> Image:
    """An image for s390x that prints this text if an emulator runs it."""
    return image(
        [layer({"bin/": None, "bin/echo": S390X}), layer({"other": said.encode()})],
        platform={"os": "linux", "architecture": "s390x"},
        config={"Env": ["PATH=/bin"], "Cmd": ["/bin/echo", said]},
    )


OTHER = emulated("emulated")


@pytest.fixture(scope="module")
def multi() -> Iterator[str]:
    """An image name in a registry, with images of two platforms."""
    with running() as registry:
        push_index(registry.host, "multi", "v1", index([OTHER, MINE], oci=True), (OTHER, MINE))
        yield f"{registry.host}/multi:v1"


@pytest.fixture
def binfmt() -> Iterator[Path]:
    """A lock, because two tests at the same time would register the same emulator on this host."""
    place = os.open(BINFMT.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(place, fcntl.LOCK_EX)
        mounted = (BINFMT / "register").exists()
        if not mounted:
            subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", BINFMT], check=True)
        yield BINFMT
        if not mounted:
            subprocess.run(["umount", BINFMT], check=True)
    finally:
        os.close(place)


@pytest.fixture
def emulator(binfmt: Path) -> Iterator[None]:
    """A fake emulator of s390x: busybox, which runs the applet that has the program's name."""
    magic = "".join(f"\\x{byte:02x}" for byte in S390X[:20])
    (binfmt / "register").write_text(f":orlop-test-s390x:M::{magic}::/bin/busybox:F")
    yield
    (binfmt / "orlop-test-s390x").write_text("-1")


def get(engine: Engine, path: str, version: str = "1.51") -> object:
    status, body = engine.api("GET", f"/v{version}{path}")
    assert status == 200, body
    return body


@pytest.fixture
def pulled(engine: Engine, multi: str) -> Iterator[str]:
    engine.ok("pull", "-q", multi)
    engine.ok("pull", "-q", "--platform", "linux/s390x", multi)
    yield multi
    engine.ok("rmi", "-f", multi)


def by_name(engine: Engine, name: str, version: str = "1.51", query: str = "") -> list[dict[str, object]]:
    filters = quote(json.dumps({"reference": [name]}))
    found = get(engine, f"/images/json?filters={filters}{query}", version)
    assert isinstance(found, list)
    return found


def test_image_list_shows_the_platforms_of_one_name_since_api_1_47(engine: Engine, pulled: str) -> None:
    (item,) = by_name(engine, pulled, query="&manifests=1")
    assert item["Id"] == MINE.id
    assert [(one["Kind"], one["Available"]) for one in item["Manifests"]] == [("image", True)] * 2  # type: ignore[attr-defined]
    assert "Manifests" not in by_name(engine, pulled)[0]
    assert "Manifests" not in by_name(engine, pulled, "1.46", "&manifests=1")[0]
    (item,) = by_name(engine, pulled, "1.46")
    assert item["Id"] == OTHER.id, "the last one pulled"

    found = get(engine, f"/images/{pulled}/json")
    assert isinstance(found, dict) and found["Id"] == MINE.id and "Manifests" not in found
    wanted = quote('{"os":"linux","architecture":"s390x"}')
    found = get(engine, f"/images/{pulled}/json?platform={wanted}")
    assert isinstance(found, dict) and found["Id"] == OTHER.id and found["RepoTags"] == [pulled]
    found = get(engine, f"/images/{pulled}/json?manifests=1", "1.48")
    assert isinstance(found, dict) and len(found["Manifests"]) == 2
    history = get(engine, f"/images/{pulled}/history?platform={wanted}")
    assert isinstance(history, list) and len(history) == 2
    status, body = engine.api("GET", f"/v1.51/images/{pulled}/json?manifests=1&platform={wanted}")
    assert (status, body["message"]) == (400, "conflicting options: manifests and platform options cannot both be set")


def test_containers_run_the_requested_platform(engine: Engine, pulled: str, name: str) -> None:
    assert engine.ok("run", "--rm", "--network", "none", "--platform", "linux/amd64", pulled, "echo", "native") == "native"
    if os.path.exists(BINFMT / "qemu-s390x"):
        pytest.skip("this host has an emulator")
    result = engine.docker("run", "--network", "none", "--name", name, "--platform", "linux/s390x", pulled)
    assert result.code == 125
    assert (
        "cannot run programs of linux/s390x on this host (linux/amd64): no emulator for this platform is registered"
        in result.err
    )
    assert "Install qemu-user-static and binfmt-support" in result.err
    assert engine.ok("ps", "-a", "--filter", f"name={name}", "--format", "{{.Image}}") == pulled
    assert engine.ok("ps", "-aq", "--filter", f"ancestor={pulled}", "--filter", f"name={name}")
    engine.ok("rm", name)


def test_foreign_platform_runs_with_an_emulator(engine: Engine, pulled: str, emulator: None) -> None:
    run = ("run", "--rm", "--network", "none", "--platform", "linux/s390x")
    assert engine.ok(*run, pulled) == "emulated"


def test_removal_of_one_platform_of_an_image_keeps_the_other_platforms(engine: Engine, pulled: str) -> None:
    wanted = quote('{"os":"linux","architecture":"s390x"}')
    status, body = engine.api("DELETE", f"/v1.50/images/{pulled}?force=1&platforms={wanted}")
    assert status == 200 and {"Deleted": OTHER.id} in body
    assert not any("Untagged" in item for item in body)
    assert engine.ok("images", "-q", "--no-trunc", pulled) == MINE.id


def test_saved_archive_contains_the_requested_platform(engine: Engine, pulled: str) -> None:
    wanted = quote('{"os":"linux","architecture":"s390x"}')
    for query, made in (("", MINE), (f"?platform={wanted}", OTHER)):
        status, data = engine.raw("GET", f"/v1.51/images/{pulled}/get{query}")[:2]
        assert status == 200 and made.config.digest[7:].encode() in data


def test_push_sends_the_requested_platform(engine: Engine, pulled: str, name: str) -> None:
    target = f"{pulled.partition('/')[0]}/{name}"
    headers = {"X-Registry-Auth": "e30="}
    engine.ok("tag", pulled, f"{target}:x")
    one = "&platform=" + quote('{"os":"linux","architecture":"s390x"}')
    for query, there in (("", {"s390x", MINE.platform["architecture"]}), (one, {"s390x"})):
        status, body = engine.raw("POST", f"/v1.46/images/{target}/push?tag=x{query}", headers=headers)[:2]
        assert (status, b"error" in body) == (200, False), body
        found = get(engine, f"/distribution/{target}:x/json", "1.46")
        assert isinstance(found, dict) and {one["architecture"] for one in found["Platforms"]} == there
    wanted = quote('{"os":"linux","architecture":"riscv64"}')
    _, body, _ = engine.raw("POST", f"/v1.46/images/{target}/push?tag=x&platform={wanted}", headers=headers)
    assert b"does not provide the specified platform (linux/riscv64)" in body
    engine.ok("rmi", f"{target}:x")
