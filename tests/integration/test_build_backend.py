"""The daemon's services for a builder: steps, snapshots, images. The builder process is
`tests.integration.building.builder`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.building.client import BuilderClient, BuildingEngine
from tests.integration.engine import BUSYBOX, UnixConnection, until

pytestmark = pytest.mark.root


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
    """The consistency check finds nothing, and nothing runs."""
    until(lambda: engine.api("GET", "/orlop/check")[1]["findings"] == [], "the check finds nothing")
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


# --- steps ------------------------------------------------------------------------------------------------------------


def test_builder_process_gets_its_settings(building: BuildingEngine, client: BuilderClient) -> None:
    hello = client.hello
    assert hello["kind"] == "grpc" and hello["headers"]["x-test"] == "yes"
    settings = hello["settings"]
    assert settings["root"] == f"{building.data_root}/build" and settings["runtime"] == f"{building.exec_root}/build"
    assert settings["entitlements"] == ["network.host"]
    assert [os.stat(settings[name]).st_mode & 0o777 for name in ("root", "runtime")] == [0o700, 0o700]


def test_step_is_not_shown_as_a_container(building: BuildingEngine, client: BuilderClient) -> None:
    since = time.time()
    found = ran(client, "echo out; echo err >&2; hostname; id -u; pwd; env | sort; exit 7", cwd="/tmp", env=["A=b"])
    assert found["code"] == 7
    assert found["err"] == "err\n"
    lines = found["out"].split("\n")
    assert lines[:4] == ["out", "buildkitsandbox", "0", "/tmp"]
    assert {"A=b", "HOME=/root", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"} <= set(lines)
    assert not any(line.startswith("HOSTNAME=") for line in lines)
    assert building.ok("ps", "-aq") == ""
    told = building.ok("events", "--since", f"{since:.3f}", "--until", f"{time.time() + 1:.3f}")
    assert not [line for line in told.splitlines() if " container " in line or " network " in line], told


def test_a_step_is_on_the_default_network(client: BuilderClient) -> None:
    found = ran(
        client,
        "ip -o -4 addr show eth0; cat /etc/hosts; grep -c nameserver /etc/resolv.conf",
        extra_hosts=[["db", "10.1.2.3"], ["gate", "host-gateway"]],
    )
    assert found["code"] == 0, found
    address = found["out"].split()[3].partition("/")[0]
    assert f"{address}\tbuildkitsandbox" in found["out"]
    assert "10.1.2.3\tdb" in found["out"] and "host-gateway" not in found["out"]
    none = ran(client, "ip -o addr; ls /sys/class/net", network="none")["out"]
    assert "eth0" not in none and "lo" in none
    assert ran(client, "ls /sys/class/net | wc -l", network="host")["out"].strip() != "1"
    for network in ("bridge0", "container:x"):
        assert ran(client, "true", network=network)["kind"] == "InvalidParameter", network


def test_limits_of_a_step_are_applied(client: BuilderClient) -> None:
    found = ran(
        client,
        "ulimit -n; df -k /dev/shm | tail -1; grep -i nonewprivs /proc/self/status; cat /proc/self/cgroup",
        ulimits=[{"name": "nofile", "soft": 77, "hard": 77}],
        shm_size=8 << 20,
        memory=64 << 20,
    )
    assert found["code"] == 0, found
    lines = found["out"].splitlines()
    assert lines[0] == "77" and lines[1].split()[1] == "8192"
    killed = ran(client, "dd if=/dev/zero of=/dev/null bs=200M count=1", memory=32 << 20, memory_swap=32 << 20)
    assert killed["code"] != 0


def test_step_is_unprivileged_unless_requested(client: BuilderClient) -> None:
    plain = ran(
        client, "grep -E 'CapEff|Seccomp:' /proc/self/status; cat /proc/keys 2>&1 | head -1; mkdir /m; mount -t tmpfs x /m"
    )
    assert "00000000a80425fb" in plain["out"] and "Seccomp:\t2" in plain["out"] and plain["code"] != 0
    assert ran(client, "mkdir /m; mount -t tmpfs x /m && echo mounted", privileged=True)["out"] == "mounted\n"


def test_a_step_that_cannot_start_leaves_nothing(client: BuilderClient) -> None:
    key = prepared(client)
    assert "executable file not found" in client.call("run", root=key, args=["/nope"])["error"].replace(
        "no such file or directory", "executable file not found"
    )
    assert "unable to find user" in client.call("run", root=key, args=["true"], user="nobody-here")["error"]
    assert client.call("run", root="build-nope", args=["true"])["kind"] == "NotFound"
    assert client.call("run", root=base(client)["snapshot"], args=["true"])["kind"] == "Conflict"
    client.result("remove", key=key)


def test_mounts_of_a_step_are_applied(building: BuildingEngine, client: BuilderClient) -> None:
    settings = client.hello["settings"]
    key = prepared(client)
    client.result("write", key=key, path="/dir/sub/file", text="from a snapshot")
    other = client.result("commit", key=key)
    Path(settings["runtime"], "secret").write_text("hidden")
    mounts = [
        {"target": "/whole", "snapshot": other, "readonly": True},
        {"target": "/part", "snapshot": other, "selector": "dir/sub", "readonly": True},
        {"target": "/one", "snapshot": other, "selector": "/dir/sub/file", "readonly": True},
        {"target": "/run/secrets/s", "path": f"{settings['runtime']}/secret", "readonly": True},
        {"target": "/t", "tmpfs": True, "tmpfs_size": 1 << 20},
    ]
    root = prepared(client)
    script = "cat /whole/dir/sub/file /part/file /one /run/secrets/s; touch /whole/x; touch /t/x && df -k /t | tail -1"
    found = ran(client, script, root, mounts=mounts)
    assert found["out"].startswith("from a snapshot" * 3 + "hidden"), found
    assert "Read-only file system" in found["err"] and " 1024 " in found["out"]
    committed = client.result("commit", key=root)
    assert client.result("pack", key=committed)["size"] == 1024, "no mount point is in the layer"
    outside = {"target": "/e", "path": "/etc", "readonly": True}
    assert ran(client, "true", mounts=[outside])["kind"] == "Forbidden"
    link = Path(settings["runtime"], "link")
    link.symlink_to("/etc")
    assert ran(client, "true", mounts=[{"target": "/e", "path": str(link)}])["kind"] == "Forbidden"
    link.unlink()
    for left in (committed, other):
        client.result("remove", key=left)


def test_writable_mounts_are_kept_and_read_only_roots_unchanged(client: BuilderClient) -> None:
    shared = client.result("prepare", parent="")
    mounts = [{"target": "/cache", "snapshot": shared}]
    for number in range(2):
        assert ran(client, f"echo {number} >> /cache/log; cat /cache/log", mounts=mounts)["out"].count("\n") == number + 1
    found = ran(client, "touch /x", base(client)["snapshot"], readonly_root=True, mounts=mounts)
    assert found["code"] != 0 and "Read-only file system" in found["err"], found
    client.result("remove", key=shared)


def test_layer_contains_only_the_changes_of_the_step(
    building: BuildingEngine, client: BuilderClient, tmp_path: Path
) -> None:
    """Mount points that the base lacks are not in the layer, even if a symlink leads to them."""
    key = prepared(client)
    ran(client, "rm -f /etc/hosts; mkdir -p /etc; ln -s ../run/x/resolv.conf /etc/resolv.conf; touch -d @0 / /etc", key)
    below = client.result("commit", key=key)
    key = client.result("prepare", parent=below)
    assert ran(client, "cat /etc/resolv.conf >/dev/null && echo changed > /new", key)["code"] == 0
    above = client.result("commit", key=key)
    config = json.loads(base(client)["config"])
    config["rootfs"]["diff_ids"] += [client.result("pack", key=each)["diff_id"] for each in (below, above)]
    image = client.result(
        "create_image", config=json.dumps(config), snapshots=[base(client)["snapshot"], below, above], names=[]
    )
    path = tmp_path / "image.tar"
    building.ok("save", "-o", str(path), image)
    members = _layer(path, config["rootfs"]["diff_ids"][-1])
    assert members == ["new"]
    client.result("remove", key=above)
    client.result("remove", key=below)


def _layer(archive: Path, digest: str) -> list[str]:
    blob = subprocess.run(
        ["tar", "-xOf", archive, f"blobs/sha256/{digest.removeprefix('sha256:')}"], capture_output=True, check=True
    ).stdout
    shown = subprocess.run(["tar", "-t"], input=blob, capture_output=True, check=True).stdout
    return shown.decode().split()


# --- ends -------------------------------------------------------------------------------------------------------------


def _steps(engine: BuildingEngine, marker: str) -> list[int]:
    """The processes of steps with this text in their command line."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                line = Path(f"/proc/{name}/cmdline").read_bytes()
            except OSError:
                continue
            if marker.encode() in line and b"sleep" in line:
                found.append(int(name))
    return found


def _builder(engine: BuildingEngine) -> int:
    assert engine.process is not None
    children = Path(f"/proc/{engine.process.pid}/task/{engine.process.pid}/children").read_text().split()
    return next(int(pid) for pid in children if Path(f"/proc/{pid}/comm").read_text().strip() == "orlop-builder")


def running(engine: BuildingEngine) -> tuple[BuilderClient, str]:
    """A client with a step that does not end by itself, and a text of the step's command line."""
    client, marker = engine.builder(), str(7_000_000 + int.from_bytes(os.urandom(2)))
    client.send("run", root=prepared(client), args=["sh", "-c", f"trap '' TERM; sleep {marker}"])
    until(lambda: _steps(engine, marker), "the step runs")
    return client, marker


def test_the_next_step_does_not_wait_for_the_runtime(own: Callable[..., BuildingEngine], tmp_path: Path) -> None:
    """A step that succeeded has no mount any more. The runtime deletes the step while the next runs, and the release of the
    base waits."""
    wrapper, proceed = tmp_path / "runtime", tmp_path / "proceed"
    waiting = f'case " $* " in *" delete "*) while [ ! -e {proceed} ]; do sleep 0.1; done;; esac'
    wrapper.write_text(f'#!/bin/sh\n{waiting}\nexec {shutil.which("runc")} "$@"\n')
    wrapper.chmod(0o755)
    engine = own({"runtimes": {"slow": {"path": str(wrapper)}}, "default-runtime": "slow"})
    client = engine.builder()
    try:
        key = prepared(client)
        assert ran(client, "echo one > /one", key)["code"] == 0
        (name,) = os.listdir(engine.exec_root / "run")
        monitor = json.loads((engine.exec_root / "run" / name / "monitor.json").read_text())["pid"]
        assert f"/mnt/{name}" not in Path(f"/proc/{monitor}/mountinfo").read_text()
        upper = client.result("prepare", parent=client.result("commit", key=key))
        assert ran(client, "cat /one", upper)["out"] == "one\n"
        assert len(os.listdir(engine.exec_root / "run")) == 2
        client.send("release", digest=base(client)["digest"])
    finally:
        proceed.touch()
    client.receive()
    assert os.listdir(engine.exec_root / "run") == []
    client.close()
    sound(engine)


def test_a_step_dies_with_its_client(building: BuildingEngine) -> None:
    client, marker = running(building)
    client.close()
    until(lambda: not _steps(building, marker), "the step has ended")
    other = building.builder()
    sound_but_active(building, other)
    other.close()


def sound_but_active(engine: BuildingEngine, client: BuilderClient) -> None:
    """The only findings are snapshots that the builder process has prepared."""
    until(lambda: engine.api("GET", "/orlop/check")[1]["findings"] == [], "the check finds nothing")
    until(lambda: os.listdir(engine.exec_root / "run") == [], "no run is left")


def test_a_step_dies_with_its_builder(building: BuildingEngine) -> None:
    client, marker = running(building)
    os.kill(_builder(building), signal.SIGKILL)
    until(lambda: not _steps(building, marker), "the step has ended")
    with pytest.raises((EOFError, OSError)):
        client.receive()
    client.close()
    sound(building)
    assert "the builds in it have failed" in building.log()
    again = building.builder()
    assert ran(again, "echo again")["out"] == "again\n"
    again.close()


@pytest.mark.parametrize("live", [True, False])
def test_a_step_dies_with_its_daemon(own: Callable[..., BuildingEngine], live: bool) -> None:
    engine = own({"live-restore": live})
    client, marker = running(engine)
    builder = _builder(engine)
    engine.kill()
    until(lambda: not _steps(engine, marker), "the step has ended")
    until(lambda: not os.path.exists(f"/proc/{builder}"), "the builder has ended")
    client.close()
    engine.start()
    sound(engine)
    again = engine.builder()
    assert again.result("snapshots") == []
    assert ran(again, "echo again")["out"] == "again\n"
    again.close()


def test_step_fails_if_its_monitor_dies(building: BuildingEngine) -> None:
    client, marker = running(building)
    (name,) = os.listdir(building.exec_root / "run")
    monitor = json.loads((building.exec_root / "run" / name / "monitor.json").read_text())["pid"]
    os.kill(monitor, signal.SIGKILL)
    answer = client.receive()
    # Unavailable, if the daemon has not been told yet that the step runs
    assert answer.get("code") == 137 or answer.get("kind") == "Unavailable", answer
    assert not _steps(building, marker)
    client.close()
    sound(building)


def test_stop_of_the_daemon_ends_builds(own: Callable[..., BuildingEngine]) -> None:
    engine = own()
    client, marker = running(engine)
    began = time.monotonic()
    assert engine.stop() == 0
    assert time.monotonic() - began < 15
    assert not _steps(engine, marker)
    client.close()
    engine.start()
    sound(engine)


def test_an_idle_builder_is_ended(monkeypatch: pytest.MonkeyPatch, own: Callable[..., BuildingEngine]) -> None:
    monkeypatch.setenv("ORLOP_TEST_IDLE", "0.5")
    engine = own()
    client = engine.builder()
    pid = _builder(engine)
    time.sleep(1)
    assert os.path.exists(f"/proc/{pid}"), "it has a client"
    client.close()
    until(lambda: not os.path.exists(f"/proc/{pid}"), "the idle builder is ended")
    assert "the builds in it have failed" not in engine.log()
    again = engine.builder()
    assert ran(again, "echo again")["out"] == "again\n"
    again.close()


# --- images and the cache ---------------------------------------------------------------------------------------------


def built(client: BuilderClient, name: str, text: str) -> tuple[str, str]:
    """An image with one layer on the base: its ID and the layer's snapshot."""
    found = base(client)
    key = client.result("prepare", parent=found["snapshot"])
    client.result("write", key=key, path="/made", text=text)
    made = client.result("commit", key=key)
    config = json.loads(found["config"])
    config["rootfs"]["diff_ids"].append(client.result("pack", key=made)["diff_id"])
    snapshots = [found["snapshot"], made]
    image = client.result("create_image", config=json.dumps(config), snapshots=snapshots, names=[name] if name else [])
    return image, made


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


def test_a_base_is_kept_until_the_last_of_its_builds_has_released_it(own: Callable[..., BuildingEngine]) -> None:
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


def test_images_of_cached_snapshots_outlive_their_base(own: Callable[..., BuildingEngine], tmp_path: Path) -> None:
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


def test_snapshot_below_another_one_cannot_be_removed(client: BuilderClient) -> None:
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


def test_names_with_digests_find_stored_images(client: BuilderClient) -> None:
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


def test_daemon_killed_at_any_call_leaves_nothing_incomplete(own: Callable[..., BuildingEngine]) -> None:
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


# --- the API ----------------------------------------------------------------------------------------------------------


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
