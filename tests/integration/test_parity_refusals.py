"""Compares orlopd with a real dockerd: both refuse invalid requests, with the same status and the same message."""

from __future__ import annotations

import json
import shutil
import urllib.parse
from typing import Any

import pytest
from tests.integration.engine import BUSYBOX
from tests.integration.parity import Side, both
from tests.registry import image, layer
from tests.registry.hostile import serving
from tests.registry.hostile import status as failing

pytestmark = [pytest.mark.root, pytest.mark.skipif(not shutil.which("dockerd"), reason="no dockerd to compare with")]


# Status and error code of a registry, "" for an answer without a code
REFUSED_BY_REGISTRY = [
    (400, "MANIFEST_INVALID"),
    (400, "OTHER"),
    (400, "TAG_INVALID"),
    (400, "UNAVAILABLE"),
    (401, "UNAUTHORIZED"),
    (403, "DENIED"),
    (404, "MANIFEST_UNKNOWN"),
    (405, ""),
    (405, "UNSUPPORTED"),
    (429, ""),
    (429, "TOOMANYREQUESTS"),
    (503, "UNAVAILABLE"),
]
REFUSED: list[tuple[str, str, Any]] = [
    ("POST", "/containers/create?name=-x", {"Image": BUSYBOX, "Cmd": ["true"]}),
    ("POST", "/containers/create?name=plain", {"Image": BUSYBOX, "Cmd": ["true"]}),
    ("POST", "/containers/create?platform=linux/arm64", {"Image": BUSYBOX, "Cmd": ["true"]}),
    ("POST", "/containers/create?platform=bogus", {"Image": BUSYBOX, "Cmd": ["true"]}),
    ("POST", "/containers/create", {"Image": "nosuch:1", "Cmd": ["true"]}),
    ("POST", "/containers/create", {"Image": BUSYBOX, "Cmd": ["a"], "StopSignal": "BOGUS"}),
    *(
        ("POST", "/containers/create", {"Image": BUSYBOX, "Cmd": ["a"], "HostConfig": host})
        for host in (
            {"RestartPolicy": {"Name": "bogus"}},
            {"RestartPolicy": {"Name": "always", "MaximumRetryCount": 2}},
            {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": -1}},
            {"RestartPolicy": {"Name": "always"}, "AutoRemove": True},
            {"Memory": 1000},
        )
    ),
    *(
        ("POST", f"/containers/created/{verb}", None)
        for verb in (
            "stop",
            "kill",
            "pause",
            "unpause",
            "resize?h=1&w=1",
            "rename?name=",
            "rename?name=plain",
            "rename?name=a%20b",
        )
    ),
    *(("POST", f"/containers/paused/{verb}", None) for verb in ("start", "pause")),
    *(("POST", f"/containers/plain/kill?signal={signal}", None) for signal in ("BOGUS", "sigusr1x", "x")),
    ("POST", "/containers/plain/rename?name=plain", None),
    ("POST", "/containers/plain/start", None),
    ("POST", "/containers/exited/stop", None),
    ("POST", "/containers/exited/kill", None),
    ("POST", "/containers/exited/wait?condition=bogus", None),
    ("GET", "/containers/exited/top", None),
    ("GET", "/containers/exited/logs", None),
    ("DELETE", "/containers/plain", None),
    ("DELETE", "/containers/paused", None),
    *(("POST", f"/containers/nosuch/{verb}", None) for verb in ("start", "stop", "kill", "wait", "pause", "rename?name=zz")),
    ("DELETE", "/containers/nosuch", None),
    ("POST", "/containers/prune?filters=%7B%22bogus%22%3A%5B%221%22%5D%7D", None),
]


SIZES = ("h=abc&w=1", "h=&w=1", "h=1", "", "h=9223372036854775808&w=1", "h=0x1&w=1")
FILTERS = ("[]", "x", '"x"', "1", '{"until":"1h"}', '{"bogus":["x"]}')
NOT_FOUND = "nosuch"

SWEEP: list[tuple[str, str, Any]] = [
    *(("POST", f"/containers/{name}/resize?{size}", None) for name in ("plain", "created", NOT_FOUND) for size in SIZES),
    *(("POST", f"/containers/{name}/resize?h=1&w=1", None) for name in ("created", "exited", NOT_FOUND)),
    *(("POST", f"/exec/{NOT_FOUND}/{verb}", None) for verb in ("start", "resize?h=1&w=1", "resize?h=x")),
    ("GET", f"/exec/{NOT_FOUND}/json", None),
    *(("POST", "/containers/plain/exec", body) for body in ({}, {"Cmd": []}, None, b"null")),
    *(("POST", f"/containers/{name}/exec", {"Cmd": ["x"]}) for name in ("exited", "created", NOT_FOUND)),
    *(("POST", f"/containers/created/rename?name={name}", None) for name in ("", "-a", "a/b", "%C3%A4", "a:b", "created")),
    ("POST", f"/containers/{NOT_FOUND}/rename?name=free", None),
    *(("POST", f"/containers/{name}/wait?condition=bogus", None) for name in ("exited", NOT_FOUND)),
    *(("GET", f"/containers/{name}/top", None) for name in ("created", "exited", NOT_FOUND)),
    *(("GET", f"/containers/{NOT_FOUND}/{what}", None) for what in ("logs?stdout=1", "changes", "export", "stats", "json")),
    ("GET", "/containers/plain/stats?one-shot=1", None),
    *(("POST", f"/containers/plain/kill?signal={signal}", None) for signal in ("KILLL", "%209", "1e1", "RTMIN%2B99", "0")),
    *(
        ("POST", "/containers/exited/update", body)
        for body in (
            {"Memory": 1},
            {"CpusetCpus": "99"},
            {"CpusetCpus": "x"},
            {"CpuPeriod": 5},
            {"CpuQuota": 5},
            {"MemoryReservation": 5},
            {"RestartPolicy": {"Name": "bogus"}},
            {"RestartPolicy": {"Name": "always", "MaximumRetryCount": 3}},
            {},
            None,
        )
    ),
    *(
        (method, f"{route}?filters={urllib.parse.quote(filters)}", None)
        for method, route in (
            ("GET", "/containers/json"),
            ("GET", "/networks"),
            ("GET", "/images/json"),
            ("GET", "/plugins"),
            ("POST", "/containers/prune"),
            ("POST", "/networks/prune"),
            ("POST", "/volumes/prune"),
            ("POST", "/images/prune"),
        )
        for filters in FILTERS
    ),
    *(
        ("POST", f"/networks/{name}/{verb}", body)
        for name in ("bridge", NOT_FOUND)
        for verb in ("connect", "disconnect")
        for body in ({}, None, {"Container": NOT_FOUND})
    ),
    *(("DELETE", f"/networks/{name}", None) for name in ("bridge", "host", "none", NOT_FOUND)),
    *(("GET", f"/networks/{name}?scope=swarm", None) for name in ("bridge", NOT_FOUND)),
    *(
        ("POST", "/volumes/create", body)
        for body in ({"Name": "a b"}, {"Name": "x"}, {"Name": "cv", "ClusterVolumeSpec": {}})
    ),
    *((method, f"/volumes/{NOT_FOUND}", None) for method in ("GET", "DELETE")),
    ("POST", "/containers/create", {"Image": BUSYBOX, "Cmd": ["a"], "HostConfig": {"LogConfig": {"Type": "bogus"}}}),
    ("POST", "/commit", None),
    ("POST", f"/commit?container={NOT_FOUND}", None),
    ("GET", "/system/df?type=bogus", None),
    # The answer of a node that is not in a swarm, for any request
    *(
        (method, path, {} if method == "POST" else None)
        for kind in ("services", "secrets", "configs", "nodes", "tasks")
        for method, path in (("GET", f"/{kind}"), ("GET", f"/{kind}/x"), ("DELETE", f"/{kind}/x"))
        if (method, kind) != ("DELETE", "tasks")
    ),
    *(("POST", f"/{kind}/create", {}) for kind in ("services", "secrets", "configs")),
    *(("POST", f"/{kind}/x/update?version=1", {}) for kind in ("services", "secrets", "configs", "nodes")),
    *(("GET", f"/{kind}/x/logs?stdout=1", None) for kind in ("services", "tasks")),
    ("GET", "/swarm", None),
    ("GET", "/swarm/unlockkey", None),
    ("POST", "/swarm/leave?force=1", None),
    ("GET", "/plugins", None),
    ("GET", "/plugins/x/json", None),
    ("DELETE", "/plugins/x", None),
    *(("POST", f"/plugins/x/{verb}", None) for verb in ("enable?timeout=0", "disable", "push", "set")),
]


@pytest.mark.parametrize("requests", [REFUSED, SWEEP], ids=["refused", "sweep"])
def test_invalid_requests_get_the_same_status_and_message_as_in_dockerd(
    sides: tuple[Side, Side], requests: list[tuple[str, str, Any]]
) -> None:
    wrong = []
    for method, path, body in requests:
        theirs, ours = (
            (status, side.text(json.dumps(said))) for side in sides for status, said in [side.api(method, path, body)]
        )
        if theirs != ours:
            wrong.append(f"{method} {path} {body}: dockerd {theirs}, orlopd {ours}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(("status", "code"), REFUSED_BY_REGISTRY)
def test_errors_of_a_registry_have_the_same_status_as_in_dockerd(sides: tuple[Side, Side], status: int, code: str) -> None:
    with serving() as registry:
        registry.add("app", "v1", image([layer({"file": b""})]))
        registry.misbehave("v1", *[failing(status, code, "because")] * 20)
        (theirs, their_answer), (ours, our_answer) = both(
            sides, lambda side: side.api("GET", f"/distribution/{registry.host}/app:v1/json")
        )
    assert ours == theirs
    # Without a code, dockerd shows the body, which may be that of a server that only the host can reach
    if code not in ("", "OTHER"):
        assert our_answer == their_answer
