"""Compares orlopd with a real dockerd: copying files into and out of the same containers gives the same results and
errors."""

from __future__ import annotations

import base64
import io
import json
import shutil
import tarfile
import time
from typing import Any

import pytest
from tests.integration.engine import BUSYBOX, until
from tests.integration.parity import API, Other, Side, both

pytestmark = [pytest.mark.root, pytest.mark.skipif(not shutil.which("dockerd"), reason="no dockerd to compare with")]

INIT_LAYER = ["/.dockerenv", "/dev/console", "/dev/pts", "/dev/shm", "/etc/hostname", "/etc/hosts", "/etc/mtab"]
INIT_LAYER += ["/etc/resolv.conf", "/proc", "/sys", "/dev", "/etc"]
WRITE = "echo one > /v/one; mkdir /v/sub; echo two > /v/sub/two; ln -s / /v/out; ln -s sub /v/in"


def archived(side: Side, name: str, path: str) -> Any:
    """The status and the members of a tar, without parts that differ between any two engines."""
    status, data = side.raw("GET", f"{API}/containers/{name}/archive?path={path}")
    if status != 200:
        return status, json.loads(data)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return status, sorted((each.name, each.type, each.mode, each.size, each.linkname, each.uid) for each in tar)


def stat(side: Side, name: str, path: str) -> Any:
    connection = Other(side.path)
    try:
        connection.request("HEAD", f"{API}/containers/{name}/archive?path={path}")
        answer = connection.getresponse()
        answer.read()
        shown = json.loads(base64.b64decode(answer.getheader("X-Docker-Container-Path-Stat") or "e30="))
        return answer.status, {key: value for key, value in shown.items() if key not in ("mtime", "size")}
    finally:
        connection.close()


def tar(name: str, content: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        made.addfile(info, io.BytesIO(content))
    return out.getvalue()


def made(side: Side, name: str, host: dict[str, Any], cmd: str = "true") -> None:
    body = {"Image": BUSYBOX, "Cmd": ["sh", "-c", cmd], "HostConfig": {"NetworkMode": "none", **host}}
    status, answer = side.api("POST", f"/containers/create?name={name}", body)
    assert status == 201, answer


def run(side: Side, name: str, host: dict[str, Any], cmd: str) -> None:
    made(side, name, host, cmd)
    assert side.api("POST", f"/containers/{name}/start")[0] == 204
    assert side.api("POST", f"/containers/{name}/wait")[1]["StatusCode"] == 0


def test_init_layer_has_the_same_files_as_in_dockerd(sides: tuple[Side, Side]) -> None:
    def do(side: Side) -> Any:
        made(side, "files", {})
        found = [(path, stat(side, "files", path), archived(side, "files", path)) for path in INIT_LAYER]
        before = side.api("GET", "/containers/files/changes")
        assert side.raw("PUT", f"{API}/containers/files/archive?path=/etc", tar("hosts", b"mine"))[0] == 200
        after = side.api("GET", "/containers/files/changes")
        status, data = side.raw("GET", f"{API}/containers/files/export")
        with tarfile.open(fileobj=io.BytesIO(data)) as exported:
            root = sorted((each.name.rstrip("/"), each.type, each.mode, each.size, each.linkname) for each in exported)
        side.api("DELETE", "/containers/files")
        return found, before, sorted(after[1], key=lambda change: str(change["Path"])), status, root

    theirs, ours = both(sides, do)
    assert theirs == ours


def test_volumes_mounted_at_missing_paths_are_the_same_as_in_dockerd(sides: tuple[Side, Side]) -> None:
    def do(side: Side) -> Any:
        run(side, "writer", {"Binds": ["parity-files:/v"]}, WRITE)
        part = {"Type": "volume", "Source": "parity-files", "Target": "/part", "VolumeOptions": {"Subpath": "in"}}
        host = {"Binds": ["parity-files:/new/place", "parity-files:/fixed:ro"], "Mounts": [part], "Tmpfs": {"/t": ""}}
        made(side, "files", host)
        paths = ["/new/place", "/new/place/one", "/new", "/fixed/sub", "/part", "/part/two", "/new/place/none"]
        found = [(path, stat(side, "files", path), archived(side, "files", path)) for path in paths]
        placed = [
            side.raw("PUT", f"{API}/containers/files/archive?path={path}", tar("added", b"x"))
            for path in ("/new/place", "/new/place/sub", "/fixed", "/part", "/new/none")
        ]
        found.append(("/new", None, archived(side, "files", "/new")))
        for name in ("files", "writer"):
            side.api("DELETE", f"/containers/{name}")
        side.api("DELETE", "/volumes/parity-files")
        return found, placed

    theirs, ours = both(sides, do)
    assert theirs == ours


@pytest.mark.parametrize("subpath", ["out", "none", "in", "sub/../in"])
def test_start_with_a_volume_subpath_has_the_same_result_as_in_dockerd(sides: tuple[Side, Side], subpath: str) -> None:
    def do(side: Side) -> Any:
        run(side, "writer", {"Binds": ["parity-files:/v"]}, WRITE)
        options = {"Type": "volume", "Source": "parity-files", "Target": "/part", "VolumeOptions": {"Subpath": subpath}}
        made(side, "files", {"Mounts": [options]})
        status, said = side.api("POST", "/containers/files/start")
        for name in ("files", "writer"):
            side.api("DELETE", f"/containers/{name}?force=1")
        side.api("DELETE", "/volumes/parity-files")
        return status, side.plain(said)

    theirs, ours = both(sides, do)
    assert theirs == ours


def test_events_at_the_end_of_a_container_are_the_same_as_in_dockerd(sides: tuple[Side, Side]) -> None:
    """Compares the order of events: `destroy` comes after the events of the volumes."""

    def do(side: Side) -> Any:
        since = time.time()
        made(side, "files", {"AutoRemove": True, "Binds": ["/anonymous"]})
        assert side.api("POST", "/containers/files/start")[0] == 204
        side.api("POST", "/containers/files/wait?condition=removed")

        def events() -> list[tuple[str, str]]:
            status, data = side.raw("GET", f"{API}/events?since={since:.9f}&until={time.time():.9f}")
            assert status == 200
            found = [json.loads(line) for line in data.splitlines()]
            return [(event["Type"], event["Action"]) for event in found if event["Type"] != "network"]

        # dockerd may answer the wait before it publishes the event
        until(lambda: ("container", "destroy") in events(), "the event of the removal")
        return events()

    theirs, ours = both(sides, do)
    assert theirs == ours
    assert ours[-2:] == [("volume", "destroy"), ("container", "destroy")]
