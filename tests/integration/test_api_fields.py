"""Compares the fields of answers of API 1.55 with Docker's description. A field that never appears, or that Docker does not
describe, is in a table here, with the reason."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import pytest
from tests.integration.api_fields import ROUTES, of_answer, recorded
from tests.integration.engine import BUSYBOX, Engine, until
from tests.registry import Attested, busybox, image, layer
from tests.registry.hostile import Hostile, serving

pytestmark = pytest.mark.root

VERSION = "/v1.55"
Reasons = Mapping[str, Sequence[str]]
ADDRESSES = {"IPv4Address": "10.77.0.9", "IPv6Address": "fd77::9"}
FULL: dict[str, Any] = {
    "Entrypoint": [],
    "Cmd": ["sh", "-c", "echo changed > /new; sleep 600"],
    "Env": ["A=b"],
    "Labels": {"a": "b"},
    "ExposedPorts": {"80/tcp": {}},
    "Volumes": {"/anonymous": {}},
    "StopSignal": "SIGTERM",
    "StopTimeout": 3,
    "Shell": ["/bin/sh"],
    "Healthcheck": {
        "Test": ["CMD", "true"],
        "Interval": 10**9,
        "StartInterval": 10**9,
        "Retries": 2,
        "Timeout": 10**9,
        "StartPeriod": 10**9,
    },
    "HostConfig": {
        "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "0"}]},
        "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 2},
        "Binds": ["/usr/share:/shared:ro"],
        "Mounts": [
            {
                "Type": "volume",
                "Source": "named",
                "Target": "/named",
                "VolumeOptions": {"NoCopy": True, "Labels": {"a": "b"}},
            },
            {"Type": "tmpfs", "Target": "/scratch", "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o755}},
            {"Type": "bind", "Source": "/usr/bin", "Target": "/bins", "BindOptions": {"Propagation": "rprivate"}},
        ],
        "Tmpfs": {"/other": "size=1m"},
        "Ulimits": [{"Name": "nofile", "Soft": 1024, "Hard": 2048}],
        "Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/zilch", "CgroupPermissions": "rwm"}],
        "BlkioWeightDevice": [],
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m"}},
        "Sysctls": {"net.ipv4.ip_forward": "1"},
        "Annotations": {"a": "b"},
        "Memory": 64 << 20,
        "PidsLimit": 100,
        "Init": True,
        "ExtraHosts": ["a:127.0.0.1"],
    },
    "NetworkingConfig": {
        "EndpointsConfig": {"fields": {"Aliases": ["web"], "DriverOpts": {"a": "b"}, "IPAMConfig": ADDRESSES}}
    },
}
ONLY_CREATED: dict[str, Any] = {
    "Image": BUSYBOX,
    "HostConfig": {
        "BlkioWeightDevice": [{"Path": "/dev/null", "Weight": 100}],
        **{
            f"BlkioDevice{each}": [{"Path": "/dev/null", "Rate": 1}]
            for each in ("ReadBps", "WriteBps", "ReadIOps", "WriteIOps")
        },
        "DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ["x/y=z"], "Count": 0, "Capabilities": [], "Options": {}}],
        "Mounts": [
            {"Type": "image", "Source": BUSYBOX, "Target": "/image", "ImageOptions": {"Subpath": "bin"}},
            {
                "Type": "bind",
                "Source": "/usr",
                "Target": "/usr2",
                "ReadOnly": True,
                "Consistency": "default",
                "BindOptions": {"CreateMountpoint": True, "NonRecursive": True, "Propagation": "rprivate"},
            },
            {
                "Type": "bind",
                "Source": "/usr",
                "Target": "/usr3",
                "ReadOnly": True,
                "BindOptions": {"ReadOnlyNonRecursive": True},
            },
            {
                "Type": "bind",
                "Source": "/usr",
                "Target": "/usr4",
                "ReadOnly": True,
                "BindOptions": {"ReadOnlyForceRecursive": True, "Propagation": "rprivate"},
            },
            {
                "Type": "volume",
                "Source": "named",
                "Target": "/named",
                "VolumeOptions": {"Subpath": "a", "DriverConfig": {"Name": "local", "Options": {"a": "b"}}},
            },
            {"Type": "tmpfs", "Target": "/scratch", "TmpfsOptions": {"Options": [["noexec"]]}},
        ],
    },
}


class Answers:
    """The fields of all answers, by route."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.known = {route: frozenset(fields) for route, fields in recorded().items()}
        self.came: dict[str, set[str]] = {route: set() for route in ROUTES}

    def ask(self, route: str, query: str = "", body: Any = None, **names: str) -> Any:
        method, path = route.split()
        status, raw, _ = self.engine.raw(method, VERSION + path.format(**names) + query, body)
        assert status in (200, 201), (route, status, raw)
        found = [json.loads(line) for line in raw.splitlines()]  # a stream of events
        for answer in found:
            self.came[route] |= set(of_answer(answer, self.known[route]))
        return found[-1]


def ask_everything(engine: Engine, registry: Hostile) -> Answers:
    answers = Answers(engine)
    ask = answers.ask
    about = Attested(APP)
    name = about.publish(registry)
    engine.ok("pull", name)
    ask(
        "POST /networks/create",
        body={
            "Name": "fields",
            "Labels": {"a": "b"},
            "Options": {"com.docker.network.driver.mtu": "1400"},
            "IPAM": {
                "Driver": "default",
                "Options": {"a": "b"},
                "Config": [
                    {
                        "Subnet": "10.77.0.0/24",
                        "IPRange": "10.77.0.0/25",
                        "Gateway": "10.77.0.1",
                        "AuxiliaryAddresses": {"a": "10.77.0.5"},
                    },
                    {"Subnet": "fd77::/64"},
                ],
            },
            "EnableIPv6": True,
        },
    )
    ask("POST /volumes/create", body={"Name": "named", "Labels": {"a": "b"}, "DriverOpts": {}})
    id = ask("POST /containers/create", "?name=full", body={**FULL, "Image": name})["Id"]
    assert engine.api("POST", f"{VERSION}/containers/{id}/start")[0] == 204
    until(lambda: engine.ok("inspect", "-f", "{{len .State.Health.Log}}", id) != "0", "a probe ran")
    ask("POST /containers/{id}/update", body={"CpuShares": 512}, id=id)
    ask("GET /containers/{id}/json", "?size=1", id=id)
    ask("GET /containers/json", "?size=1")
    ask("GET /containers/{id}/changes", id=id)
    ask("GET /containers/{id}/stats", "?stream=0", id=id)
    ask("GET /containers/{id}/top", id=id)
    created = ask("POST /containers/create", body=ONLY_CREATED)["Id"]
    ask("GET /containers/{id}/json", id=created)
    exec_id = engine.api("POST", f"{VERSION}/containers/{id}/exec", {"Cmd": ["true"], "User": "0"})[1]["Id"]
    assert engine.api("POST", f"{VERSION}/exec/{exec_id}/start", {"Detach": True})[0] == 200
    ask("GET /exec/{id}/json", id=exec_id)
    for route in ("GET /networks/{id}", "GET /networks"):
        ask(route, "", id="fields")
    ask("GET /volumes")
    ask("GET /volumes/{name}", name="named")
    ask("GET /images/json", "?manifests=1&shared-size=1&identity=1")
    for reference in (name, "busybox"):
        ask("GET /images/{name}/json", "?manifests=1", name=reference)
    ask("GET /images/{name}/json", "?identity=1", name=name)
    ask("GET /images/{name}/history", name=name)
    ask("GET /images/{name}/attestations", "?statement=1", name=name)
    ask("GET /distribution/{name}/json", name=name)
    ask("GET /info")
    ask("GET /version")
    ask("GET /system/df")
    ask("GET /system/df", "?verbose=1")
    other = ask("POST /containers/create", body={"Image": name, "Cmd": ["true"]})["Id"]
    assert engine.api("POST", f"{VERSION}/containers/{other}/start")[0] == 204
    ask("POST /containers/{id}/wait", id=other)
    engine.ok("create", "--name", "unused", "busybox")
    engine.ok("network", "create", "unused")
    engine.ok("volume", "create", "unused")
    ask("POST /containers/prune")
    ask("POST /networks/prune")
    ask("POST /volumes/prune", '?filters={"all":["true"]}')
    ask("POST /images/prune", '?filters={"dangling":["false"]}')
    ask("GET /events", f"?since=0&until={time.time():.6f}")
    return answers


CONFIG: dict[str, Any] = {
    **{key: FULL[key] for key in ("Env", "Labels", "ExposedPorts", "Volumes", "StopSignal", "Shell", "Healthcheck")},
    "Entrypoint": ["/bin/env"],
    "Cmd": ["true"],
    "User": "0",
    "WorkingDir": "/tmp",
    "OnBuild": ["RUN true"],
    "ArgsEscaped": True,
}
APP = image([layer(busybox())], oci=True, config=CONFIG)


@pytest.fixture(scope="module")
def answers() -> Iterator[Answers]:
    with serving() as registry:
        engine = Engine({"insecure-registries": [registry.host]})
        try:
            engine.start()
            engine.load()
            yield ask_everything(engine, registry)
        finally:
            left = engine.close()
    assert left == []


ABSENT = {
    "only if a manifest or an index has it": (
        r".*\.(annotations|artifactType|data|urls)",
        r".*\bDescriptor\.platform\b.*",
        r".*[pP]latform.*\.(os\.features|os\.version|variant)",
    ),
    "signatures and builds are not recorded: docs/api.md": (r"GET /images/.*Identity\.(Build|Signature)\b.*",),
    "only if the image has it": (r"GET /images/\{name\}/json (Author|Comment|OsVersion|Variant)",),
    "of engines whose layers are in containerd; here it is GraphDriver": (r"GET /containers/\{id\}/json Storage\b.*",),
    "only if the request has it, as in dockerd": (
        r"GET /containers/\{id\}/json Config\.(ArgsEscaped|NetworkDisabled|OnBuild)",
        r".*\bLinkLocalIPs",
    ),
    "quotas of the root file system are refused": (r"GET /containers/\{id\}/json HostConfig\.StorageOpt",),
    "of Windows": (
        r"GET /containers/\{id\}/stats memory_stats\.(commit.*|privateworkingset)",
        r"GET /containers/\{id\}/stats (networks\{\}|storage_stats)\..*",
    ),
    "of control groups version 1, or after disk accesses": (
        r"GET /containers/\{id\}/stats (memory_stats\.failcnt|blkio_stats\..*)",
    ),
    "containerd and NRI are not used": (r"GET /info (Containerd|NRI)\b.*",),
    "of swarm mode": (r"GET /info Swarm\..*", r"GET /networks.*(Peers|Services)\b.*", r".*\bClusterVolume\b.*"),
    "only if the configuration or the host has it": (
        r"GET /info (DefaultAddressPools|DiscoveredDevices|GenericResources)\b.*",
        r"GET /info (FirewallBackend\.Info|Runtimes\{\}\.runtimeArgs)",
    ),
    "only if it is true, as in dockerd": (r"GET /version Experimental",),
    "no driver has a status": (r"(GET|POST) /volumes.*\bStatus",),
    "sizes are in /system/df alone, as in dockerd": (r"(GET|POST) /volumes.*UsageData\b.*",),
    "only after a failed wait": (r"POST /containers/\{id\}/wait Error\b.*",),
}
"""Fields of the description that do not appear in these tests: patterns of route and field, by reason."""

MORE = {
    "of Orlop: docs/api.md": (r"GET /info OrlopDrivers",),
    "without `verbose`, the lists of versions before 1.52": (
        r"GET /system/df (BuildCache|Containers|Images|LayersSize|Volumes)",
    ),
}
"""Fields that appear in answers and are not in the description."""


def unexplained(found: dict[str, set[str]], reasons: Reasons) -> list[str]:
    fields = [f"{route} {field}" for route in ROUTES for field in sorted(found[route])]
    return [one for one in fields if not any(re.fullmatch(pattern, one) for pattern in chain(*reasons.values()))]


def unused(found: dict[str, set[str]], reasons: Reasons) -> list[str]:
    fields = [f"{route} {field}" for route in ROUTES for field in found[route]]
    return [pattern for pattern in chain(*reasons.values()) if not any(re.fullmatch(pattern, one) for one in fields)]


def test_answers_contain_all_fields_of_docker_s_api_description(answers: Answers) -> None:
    absent = {route: answers.known[route] - answers.came[route] for route in ROUTES}
    assert unexplained(absent, ABSENT) == []
    assert unused(absent, ABSENT) == [], "these reasons explain nothing"


def test_answers_contain_only_fields_of_docker_s_api_description(answers: Answers) -> None:
    more = {route: answers.came[route] - answers.known[route] for route in ROUTES}
    assert unexplained(more, MORE) == []
    assert unused(more, MORE) == [], "these reasons explain nothing"


def test_most_fields_of_docker_s_api_description_appear_in_an_answer(answers: Answers) -> None:
    """At most the fields of swarm mode, signatures and disk accesses are missing: the listed reasons must not hide a whole
    route."""
    relevant = [
        (route, field)
        for route in ROUTES
        for field in answers.known[route]
        if not re.search(r"Swarm\.|ClusterVolume|Signature|blkio_stats", field)
    ]
    came = [field for route, field in relevant if field in answers.came[route]]
    assert len(came) / len(relevant) > 0.8
