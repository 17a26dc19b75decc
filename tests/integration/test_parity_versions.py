"""Compares orlopd with a real dockerd for clients of older API versions: requests have the same effect, and answers are the
same.

1.45 is the newest version that both support. For each change of the API, the last version before the change and the first
version after it are tested.
"""

from __future__ import annotations

import json
import re
import shutil
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.engine import BUSYBOX, until
from tests.integration.parity import SLEEP, Side, differences, in_order, unexpected

pytestmark = [pytest.mark.root, pytest.mark.skipif(not shutil.which("dockerd"), reason="no dockerd to compare with")]

VERSIONS = [f"/v1.{minor}" for minor in (24, 25, 28, 29, 30, 39, 40, 41, 42, 43, 44, 45)]
ABSENT = "/PARITY-HOME/absent"  # a directory for each side, which a create makes
BIND = {"Type": "bind", "Source": "/usr/share", "Target": "/m", "ReadOnly": True}


def mounts(*specs: dict[str, Any]) -> dict[str, Any]:
    return {"HostConfig": {"Mounts": [*specs]}}


CREATED: list[dict[str, Any]] = [
    {"HostConfig": {"AutoRemove": True, "ConsoleSize": [10, 20], "Annotations": {"a": "b"}}},
    {"HostConfig": {"IpcMode": "private", "CgroupnsMode": "private", "PidsLimit": -1, "Binds": ["/usr/share:/b:ro"]}},
    {"Healthcheck": {"Test": ["CMD", "true"], "StartInterval": 10**9}, "StopTimeout": 3},
    {"NetworkingConfig": {"EndpointsConfig": {"bridge": {}, "parity-net": {}}}},
    {"MacAddress": "02:42:ac:11:00:09"},
    mounts(BIND),
    mounts({**BIND, "BindOptions": {"NonRecursive": True}}),
    mounts({**BIND, "BindOptions": {"ReadOnlyNonRecursive": True}}),
    mounts({**BIND, "BindOptions": {"ReadOnlyForceRecursive": True, "Propagation": "rprivate"}}),
    mounts({**BIND, "Source": ABSENT, "BindOptions": {"CreateMountpoint": True}}),
    mounts({"Type": "tmpfs", "Target": "/m", "VolumeOptions": {"NoCopy": True}}),
    mounts({"Type": "bind", "Source": "/usr/share", "Target": "/m", "TmpfsOptions": {"SizeBytes": 1 << 20}}),
    mounts({"Type": "volume", "Source": "parity", "Target": "/m", "VolumeOptions": {"Subpath": "x"}}),
]
# dockerd shows options that it ignored, and one that it filled in, if the client gave any option of a bind
KNOWN = (
    r"created: (NetworkSettings\.MacAddress|NetworkSettings\.Networks\.parity-net\.NetworkID|"
    r"HostConfig\.Mounts\[0\]\.(VolumeOptions|TmpfsOptions|BindOptions\.ReadOnlyNonRecursive))"
)


def created(side: Side, version: str, body: dict[str, Any]) -> tuple[int, Any]:
    absent = side.home / "absent"
    text = json.dumps({"Image": BUSYBOX, **body}).replace(ABSENT, str(absent))
    status, made = side.api("POST", "/containers/create?name=versions", text.encode(), version)
    if absent.exists():
        absent.rmdir()
    if status != 201:
        return status, side.plain(re.sub(r": (bridge, parity-net|parity-net, bridge)$", ": ANY", made["message"]))
    side.names[made["Id"]] = "<versions>"
    try:
        return status, in_order(side.plain(side.api("GET", "/containers/versions/json", version=version)[1]))
    finally:
        side.api("DELETE", "/containers/versions?force=1")
        del side.names[made["Id"]]


@pytest.mark.parametrize("version", VERSIONS)
def test_create_requests_of_each_api_version_have_the_same_effect_as_in_dockerd(
    sides: tuple[Side, Side], version: str
) -> None:
    wrong = []
    for body in CREATED:
        theirs, ours = (created(side, version, body) for side in sides)
        if theirs[0] != ours[0] or theirs[0] != 201:
            found = [*differences(theirs, ours)]
        else:
            found = [text for text in unexpected("created", theirs[1], ours[1]) if not re.match(KNOWN, text)]
        wrong += [f"{json.dumps(body)}: {text}" for text in found]
    assert not wrong, "\n".join(wrong)


def rows(side: Side, version: str) -> Iterator[tuple[str, Any]]:
    """List and inspect a running container with an API version."""
    exec_body = {"Cmd": ["true"], "ConsoleSize": [1, 2]}
    yield "exec", side.api("POST", "/containers/plain/exec", exec_body, version)[0]
    yield "wait", side.api("POST", "/containers/exited/wait?condition=bogus", None, version)
    yield "stats", side.api("GET", "/containers/created/stats?stream=0&one-shot=1", None, version)[0]
    for limit in (70, -1):
        answer = side.api("POST", "/containers/joined/update", {"PidsLimit": limit}, version)
        yield f"update {limit}", (answer, side.inspect("joined")["HostConfig"]["PidsLimit"])
        side.api("POST", "/containers/joined/update", {"PidsLimit": 50})
    yield "platform", side.api("POST", "/containers/create?name=other&platform=bogus", {"Image": BUSYBOX}, version)[0]
    side.api("DELETE", "/containers/other")
    filters = urllib.parse.quote(json.dumps({"name": ["parity-net"]}))
    (network,) = side.api("GET", f"/networks?filters={filters}", None, version)[1]
    yield "networks", [*side.plain(network)["Containers"]]


@pytest.mark.parametrize("version", VERSIONS)
def test_other_requests_of_each_api_version_have_the_same_effect_as_in_dockerd(
    sides: tuple[Side, Side], version: str
) -> None:
    theirs, ours = (dict(rows(side, version)) for side in sides)
    assert ours == theirs


@pytest.mark.parametrize("version", VERSIONS)
def test_info_in_each_api_version_is_the_same_as_in_dockerd(sides: tuple[Side, Side], version: str) -> None:
    """Compares the fields that depend on the version."""
    shown = []
    for side in sides:
        info = side.api("GET", "/info", None, version)[1]
        options = [option.partition(",")[0] for option in info["SecurityOptions"] if "cgroupns" not in option]
        registry = sorted(info["RegistryConfig"])
        status = "status" in info["Runtimes"]["runc"]
        keys = [
            key for key in ("ExecutionDriver", "BridgeNfIptables", "FirewallBackend", "DiscoveredDevices") if key in info
        ]
        # dockerd 26 reports the features of runtimes at no version
        shown.append([options, registry, status and version < "/v1.44", keys])
    assert shown[0] == shown[1]


def test_links_set_the_same_environment_variables_as_in_dockerd(sides: tuple[Side, Side]) -> None:
    """The links are on the default bridge; compares the environments of the first process and of execs."""
    shown = []
    ports: dict[str, Any] = {port: {} for port in ("80/tcp", "80/udp", "81/tcp", "82/tcp", "443/sctp")}
    for side in sides:
        names = ("versions-db", "versions-web")
        try:
            side.create(names[0], SLEEP, {"ExposedPorts": ports, "Env": ["A=1", "HOME=/x", "B=x=y"]}, {}, True)
            side.create(names[1], SLEEP, {"Env": ["MY_DB_NAME=mine"]}, {"Links": [f"{names[0]}:my-db"]}, True)
            address = side.inspect(names[0])["NetworkSettings"]["IPAddress"]
            environ = Path(f"/proc/{side.inspect(names[1])['State']['Pid']}/environ")
            until(lambda environ=environ: "HOSTNAME=" in environ.read_text(), "the runtime gives way to the container")
            first = environ.read_text().split("\0")
            made = side.api("POST", f"/containers/{names[1]}/exec", {"Cmd": ["env"], "AttachStdout": True})[1]
            other = side.raw("POST", f"/exec/{made['Id']}/start", {})[1][8:].decode().split("\n")
            shown.append(
                [[line.replace(address, "IP") for line in each if "HOSTNAME" not in line] for each in (first, other)]
            )
        finally:
            for name in names:
                side.api("DELETE", f"/containers/{name}?force=1")
    assert shown[0] == shown[1]
    assert "MY_DB_PORT_80_TCP_PORT_END=82" in shown[1][0] and "MY_DB_ENV_B=x=y" in shown[1][1]
