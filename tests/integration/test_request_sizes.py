"""Requests with thousands of items. Each is refused with a reason or carried out, without a delay for other clients, and a
refused request leaves nothing. The daemon's watchdog (boot.watchdog) reports whether the event loop was blocked, because
times measured by a client also depend on the machine."""

from __future__ import annotations

import json
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.integration.engine import Engine

pytestmark = pytest.mark.root

TEN_THOUSAND = range(10_000)


def host(**config: Any) -> dict[str, Any]:
    return {"HostConfig": config}


def binds(count: int) -> dict[str, Any]:
    return host(Binds=[f"v{number}:/v{number}" for number in range(count)])


def bindings(*texts: str) -> dict[str, Any]:
    return host(PortBindings={text: [{}] for text in texts})


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "volumes by the hundred thousand": (binds(90_000), "invalid JSON: more than 50000 values"),
    "volumes by the ten thousand": (binds(10_001), "HostConfig.Binds: has more than 10000 elements"),
    "volumes by the thousand": (binds(1_001), "too many mounts: 1001, at most 1000 are allowed"),
    "anonymous volumes": (host(Binds=[f"/v{number}" for number in TEN_THOUSAND]), "too many mounts"),
    "volumes of every kind": (
        {
            "Volumes": {f"/a{number}": {} for number in range(400)},
            **host(Binds=[f"/b{number}" for number in range(400)], Tmpfs={f"/c{number}": "" for number in range(400)}),
        },
        "too many mounts: 1200, at most 1000 are allowed",
    ),
    "mounts": (host(Mounts=[{"Type": "volume", "Target": f"/v{number}"} for number in range(5_000)]), "too many mounts"),
    "volumes of others": (host(VolumesFrom=["big"] * 2), "too many mounts in VolumesFrom"),
    "every port": (bindings("1-65535/tcp"), "too many published ports: at most 4096 are allowed"),
    "ranges of ports": (bindings(*(f"{low}-65535/tcp" for low in range(1, 5_000))), "too many published ports"),
    "every exposed port": (
        {"ExposedPorts": {"1-5000/tcp": {}}, **host(PublishAllPorts=True)},
        "too many published ports",
    ),
    "ranges of exposed ports": (
        {"ExposedPorts": {f"{low}-65535/tcp": {} for low in range(1, 9_000)}},
        "too many exposed ports: at most 32768 are allowed",
    ),
    "variables": ({"Env": [f"A{number}=x" for number in range(45_000)]}, "Env: has more than 10000 elements"),
    "one long variable": ({"Env": ["A=" + "x" * (4 << 20)]}, "request body too large"),
    "a variable beyond what execve takes": ({"Env": ["A=" + "x" * (2 << 20)]}, "Env: has more than 1048576 characters"),
    "a label that is too long": ({"Labels": {"a": "x" * (2 << 20)}}, "Labels: has more than 1048576 characters"),
    "labels": ({"Labels": {f"l{number}": "" for number in range(20_000)}}, "Labels: has more than 10000 elements"),
    "links": (host(Links=[f"c:a{number}" for number in TEN_THOUSAND]), "too many entries in Links: 10000, at most 1000"),
    "hosts": (host(ExtraHosts=[f"a{number}:192.0.2.1" for number in TEN_THOUSAND]), "too many entries in ExtraHosts"),
    "name servers": (host(Dns=["192.0.2.1"] * 10_000), "too many entries in Dns: 10000, at most 100 are allowed"),
    "devices": (host(Devices=[{"PathOnHost": "/dev/null"}] * 10_000), "too many entries in Devices"),
    "ulimits": (host(Ulimits=[{"Name": "nofile"}] * 10_000), "too many entries in Ulimits"),
    "containers' volumes": (host(VolumesFrom=["a"] * 10_000), "too many entries in VolumesFrom"),
    "processors": (host(CpusetCpus=",".join(["0-8191"] * 100_000)), "invalid format"),
    "options of a tmpfs": (host(Tmpfs={"/t": ",".join(["ro"] * 300_000)}), "more than 4095 characters"),
    "a log tag": (host(LogConfig={"Type": "json-file", "Config": {"tag": "{{" * 300_000}}), "log option tag: it has more"),
    "a pattern of labels": (
        host(LogConfig={"Type": "json-file", "Config": {"labels-regex": "(" * 500 + ")" * 500}}),
        "cannot use log option labels-regex",
    ),
    "networks": (
        {"NetworkingConfig": {"EndpointsConfig": {f"n{number}": {} for number in TEN_THOUSAND}}},
        "too many entries in EndpointsConfig",
    ),
}


def create(engine: Engine, body: dict[str, Any], name: str = "") -> tuple[int, Any]:
    """A create request. It is encoded without blanks, so that the size of the body is known."""
    data = json.dumps({"Image": "busybox", "Cmd": ["true"], **body}, separators=(",", ":")).encode()
    return engine.api("POST", f"/containers/create?name={name}", data)


def left(engine: Engine) -> tuple[int, int, int]:
    containers, networks = (engine.api("GET", path)[1] for path in ("/containers/json?all=1", "/networks"))
    return len(containers), len(engine.api("GET", "/volumes")[1]["Volumes"]), len(networks)


@contextmanager
def pinging(engine: Engine) -> Iterator[None]:
    """Send requests of another client, which must not be delayed."""
    over, failures = threading.Event(), []

    def ping() -> None:
        while not over.wait(0.01):
            try:
                assert engine.api("GET", "/_ping")[0] == 200
            except (OSError, AssertionError) as error:
                failures.append(error)

    thread = threading.Thread(target=ping)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert not failures


@pytest.fixture(scope="module")
def big(shared: Engine) -> Iterator[None]:
    """A container with 600 mounts, to be named in --volumes-from."""
    tmpfs = [{"Type": "bind", "Source": "/tmp", "Target": f"/v{number}"} for number in range(600)]
    status, made = create(shared, host(Mounts=tmpfs), "big")
    assert status == 201, made
    yield
    shared.api("DELETE", "/containers/big")


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.usefixtures("big")
def test_create_request_over_a_limit_is_refused_and_leaves_no_container_or_volume(shared: Engine, case: str) -> None:
    body, reason = REFUSED[case]
    before = left(shared)
    with pinging(shared):
        status, answer = create(shared, body)
    assert status in (400, 413), answer
    assert reason in answer["message"]
    assert left(shared) == before
    assert not shared.blocked()


@pytest.mark.parametrize(
    "text",
    [
        b"[" + b"[]," * 1_300_000 + b"1]",
        b'{"Labels":{' + b",".join(b'"%d":""' % number for number in range(400_000)) + b"}}",
        b'{"Image":"' + b'\\"' * 2_000_000 + b'"}',
        b'{"a":' * 700_000,
        b" " * (4 << 20),
        b'{"Image":"' + b"\\u0041" * 690_000 + b'"}',
        b"[" + b"9" * (4 << 20 - 2),
        b"x" * (16 << 20),
    ],
    ids=["lists", "labels", "quotes", "depth", "blanks", "escapes", "digits", "too large"],
)
def test_large_request_body_of_any_shape_does_not_delay_other_clients(engine: Engine, text: bytes) -> None:
    before = left(engine)
    with pinging(engine):
        try:
            status = engine.raw("POST", "/containers/create", text)[0]
        except ConnectionError:  # refused before the body was sent
            status = 413
    assert status in (400, 413)
    assert left(engine) == before
    assert not engine.blocked()


def test_largest_allowed_request_succeeds_and_does_not_delay_other_clients(engine: Engine, name: str) -> None:
    body = {
        "Env": [f"A{number}=x" for number in range(9_000)],
        "Labels": {f"l{number}": "x" * 50 for number in range(9_000)},
        "ExposedPorts": {"1-32768/udp": {}},
        **host(
            Tmpfs={f"/t{number}": "" for number in range(900)},
            ExtraHosts=[f"a{number}:192.0.2.1" for number in range(1_000)],
            PortBindings={f"{port}/tcp": [{"HostIp": "127.0.0.1"}] for port in range(1, 1_001)},
        ),
        "Cmd": ["sleep", "600"],
    }
    with pinging(engine):
        status, answer = create(engine, body, name)
        assert status == 201, answer
        assert engine.api("POST", f"/containers/{name}/start")[0] == 204
        assert len(engine.inspect(name)["NetworkSettings"]["Ports"]) >= 1_000
        assert engine.api("GET", "/containers/json?all=1")[0] == 200
        assert engine.api("DELETE", f"/containers/{name}?force=1")[0] == 204
    assert not engine.blocked()


@pytest.mark.parametrize("path", ["/containers/json?all=1", "/volumes", "/networks", "/events?until=1", "/images/json"])
def test_filter_with_more_than_256_values_is_refused(engine: Engine, path: str) -> None:
    wanted = json.dumps({"label": [f"l{number}" for number in range(3_000)]}, separators=(",", ":"))
    mark = "&" if "?" in path else "?"
    status, answer = engine.api("GET", f"{path}{mark}filters={urllib.parse.quote(wanted)}")
    assert (status, answer["message"]) == (400, "invalid filter 'label': more than 256 values")
