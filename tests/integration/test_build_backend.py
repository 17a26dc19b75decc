"""The daemon's services for a builder: steps."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from tests.integration.building.backend import base, building, client, prepared, ran
from tests.integration.building.client import BuilderClient, BuildingEngine

__all__ = ["building", "client"]  # fixtures

pytestmark = pytest.mark.root


def test_builder_process_gets_its_settings(building: BuildingEngine, client: BuilderClient) -> None:
    hello = client.hello
    assert hello["kind"] == "grpc" and hello["headers"]["x-test"] == "yes"
    settings = hello["settings"]
    assert settings["root"] == f"{building.data_root}/build" and settings["runtime"] == f"{building.exec_root}/build"
    assert settings["entitlements"] == ["network.host", "device"]
    assert [os.stat(settings[name]).st_mode & 0o777 for name in ("root", "runtime")] == [0o700, 0o700]


def test_build_step_is_not_shown_as_a_container(building: BuildingEngine, client: BuilderClient) -> None:
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


def test_build_step_uses_the_default_network_unless_another_is_requested(client: BuilderClient) -> None:
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


@pytest.mark.parametrize("kind", ["run", "serve"])
def test_daemon_checks_the_steps_of_a_restricted_builder(kind: str) -> None:
    """The daemon checks a step even if the builder, by mistake, has not refused it."""
    engine = BuildingEngine()
    path = str(engine.home / "r.sock")
    engine.configure({"shutdown-timeout": 3, "listeners": [{"host": f"unix://{path}", "role": "no-exec"}]})
    engine.start()
    engine.load()
    client = engine.builder(path=path)
    try:
        name = {"name": "n"} if kind == "serve" else {}
        root = prepared(client)
        for asked in ({"network": "host"}, {"privileged": True}):
            refused = client.call(kind, root=root, args=["true"], **asked, **name)
            assert refused["kind"] == "Forbidden" and "in a step of a build" in refused["error"], refused
        assert client.call(kind, root=root, args=["false"], **name)["code"] == 1
    finally:
        client.close()
        assert engine.close() == []


def test_resource_limits_of_a_build_step_are_applied(client: BuilderClient) -> None:
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


def test_build_step_is_privileged_only_if_requested(client: BuilderClient) -> None:
    plain = ran(
        client, "grep -E 'CapEff|Seccomp:' /proc/self/status; cat /proc/keys 2>&1 | head -1; mkdir /m; mount -t tmpfs x /m"
    )
    assert "00000000a80425fb" in plain["out"] and "Seccomp:\t2" in plain["out"] and plain["code"] != 0
    assert ran(client, "mkdir /m; mount -t tmpfs x /m && echo mounted", privileged=True)["out"] == "mounted\n"


def test_build_step_that_cannot_start_leaves_nothing(client: BuilderClient) -> None:
    key = prepared(client)
    assert "executable file not found" in client.call("run", root=key, args=["/nope"])["error"].replace(
        "no such file or directory", "executable file not found"
    )
    assert "unable to find user" in client.call("run", root=key, args=["true"], user="nobody-here")["error"]
    assert client.call("run", root="build-nope", args=["true"])["kind"] == "NotFound"
    assert client.call("run", root=base(client)["snapshot"], args=["true"])["kind"] == "Conflict"
    client.result("remove", key=key)


def test_mounts_of_a_build_step_are_applied(building: BuildingEngine, client: BuilderClient) -> None:
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


def test_writable_mount_keeps_changes_and_read_only_root_stays_unchanged(client: BuilderClient) -> None:
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
