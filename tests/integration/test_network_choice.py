"""The networks of a container, as seen inside it: at create, after connect and disconnect, and at its next start."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.integration.engine import BUSYBOX, Engine, own_address, until
from tests.integration.test_network_publish import SLEEP, curl, served, web

from orlop_sdk.testing.ports import free_port

pytestmark = pytest.mark.root


@pytest.fixture
def networks(engine: Engine, name: str) -> Iterator[Callable[..., str]]:
    """Creates networks, which are removed after the test's containers."""
    made: list[str] = []

    def make(short: str, *flags: str) -> str:
        network = f"{short}-{name}"
        engine.ok("network", "create", *flags, network)
        made.append(network)
        return network

    yield make
    for container in engine.docker("ps", "-aq").out.split():
        engine.docker("rm", "-f", container)
    for network in made:
        engine.docker("network", "rm", network)


def create(engine: Engine, name: str, endpoints: dict[str, Any], mode: str = "", **config: Any) -> tuple[int, Any]:
    body = {"Image": BUSYBOX, "Cmd": [*SLEEP[1:]], "NetworkingConfig": {"EndpointsConfig": endpoints}, **config}
    return engine.api(
        "POST", f"/v1.45/containers/create?name={name}", {**body, "HostConfig": {"NetworkMode": mode} if mode else {}}
    )


def on(engine: Engine, name: str) -> set[str]:
    return set(engine.inspect(name)["NetworkSettings"]["Networks"])


def links(engine: Engine, name: str) -> int:
    """The number of network interfaces inside the container."""
    return len([each for each in engine.ok("exec", name, "ls", "/sys/class/net").split() if each != "lo"])


def route(engine: Engine, name: str) -> str:
    """The gateway of the default route inside the container."""
    lines = engine.ok("exec", name, "ip", "route").splitlines()
    return next((line.split()[2] for line in lines if line.startswith("default")), "")


def test_second_connect_of_a_stopped_container_changes_nothing(
    engine: Engine, networks: Callable[..., str], name: str
) -> None:
    """As in dockerd, the second connect succeeds without effect. For a running container, it is refused."""
    one = networks("one", "--subnet", "10.215.0.0/24")
    engine.ok("create", "--name", name, "--network", one, "--ip", "10.215.0.9", *SLEEP)
    engine.ok("network", "connect", "--ip", "10.215.0.10", one, name)
    wrong = engine.docker("network", "connect", "--ip", "10.9.9.9", one, name)
    assert wrong.code == 1 and "no configured subnet or ip-range contain the IP address 10.9.9.9" in wrong.err
    engine.ok("start", name)
    assert engine.address(name, one) == "10.215.0.9"
    refused = engine.docker("network", "connect", one, name)
    assert refused.code == 1 and f"endpoint with name {name} already exists in network {one}" in refused.err


def test_containers_have_only_loopback_if_the_default_bridge_is_disabled(fresh: Callable[..., Engine]) -> None:
    """With `"bridge": "none"`, a container that names no network has no network, as in Docker."""
    engine = fresh({"bridge": "none"})
    for flags in ([], ["--network", "bridge"], ["-p", f"{free_port()}:80"]):
        assert engine.ok("run", "--rm", *flags, BUSYBOX, "ls", "/sys/class/net") == "lo"
        assert "127.0.0.1" in engine.ok("run", "--rm", *flags, BUSYBOX, "ip", "addr")
    engine.ok("create", "--name", "cc", BUSYBOX, "sleep", "600")
    engine.ok("network", "create", "mine")
    engine.ok("start", "cc")
    assert on(engine, "cc") == {"bridge"}
    assert engine.inspect("cc")["NetworkSettings"]["Ports"] == {}
    engine.ok("network", "connect", "mine", "cc")
    assert (on(engine, "cc"), links(engine, "cc")) == ({"mine"}, 1)
    engine.ok("restart", "-t", "0", "cc")
    assert links(engine, "cc") == 1


def test_network_may_have_an_mtu_below_1280_without_ipv6(engine: Engine, networks: Callable[..., str], name: str) -> None:
    """A link with an MTU below 1280 has no IPv6, and no IPv6 sysctls."""
    one = networks("one", "-o", "com.docker.network.driver.mtu=1000")
    assert "mtu 1000" in engine.ok("run", "--rm", "--network", one, BUSYBOX, "ip", "link", "show", "eth0")
    refused = engine.docker("network", "create", "-o", "com.docker.network.driver.mtu=1000", "--ipv6", f"six-{name}")
    assert refused.code == 1 and "IPv6 needs at least 1280" in refused.err


def gateway(engine: Engine, network: str) -> str:
    return str(json.loads(engine.ok("network", "inspect", network))[0]["IPAM"]["Config"][0]["Gateway"])


def mode(engine: Engine, name: str) -> str:
    return str(engine.inspect(name)["HostConfig"]["NetworkMode"])


def test_container_is_only_on_the_requested_networks(engine: Engine, name: str, networks: Callable[..., str]) -> None:
    inner, other = networks("inner", "--internal"), networks("other")
    assert create(engine, name, {inner: {}})[0] == 201
    assert on(engine, name) == {inner}
    engine.ok("start", name)
    assert (on(engine, name), links(engine, name), route(engine, name), mode(engine, name)) == ({inner}, 1, "", "bridge")
    engine.ok("restart", "-t", "0", name)
    assert (on(engine, name), links(engine, name)) == ({inner}, 1)
    # With docker's Python SDK, as testcontainers does
    low = engine.sdk.api
    config = low.create_networking_config({other: low.create_endpoint_config(aliases=["db"])})
    made = low.create_container(BUSYBOX, [*SLEEP[1:]], networking_config=config)
    low.start(made)
    assert (on(engine, made["Id"]), links(engine, made["Id"])) == ({other}, 1)
    assert create(engine, f"{name}b", {other: {}}, inner)[0] == 201
    assert on(engine, f"{name}b") == {other}
    mac = "02:42:0a:0a:0a:0a"
    assert create(engine, f"{name}c", {}, other, MacAddress=mac)[0] == 201
    engine.ok("start", f"{name}c")
    assert links(engine, f"{name}c") == 1
    assert engine.inspect(f"{name}c")["NetworkSettings"]["Networks"][other]["MacAddress"] == mac


def test_create_request_can_select_a_network_by_its_id(engine: Engine, name: str, networks: Callable[..., str]) -> None:
    one, two = networks("one"), networks("two")
    ids = {each["Name"]: each["Id"] for each in engine.api("GET", "/networks")[1]}
    assert create(engine, name, {one: {"NetworkID": ids[two]}})[0] == 201
    assert create(engine, f"{name}b", {"bridge": {"NetworkID": ids[two]}})[0] == 201
    engine.ok("start", name, f"{name}b")
    assert (on(engine, name), on(engine, f"{name}b")) == ({two}, {"bridge"})
    engine.ok("run", "-d", "--name", f"{name}c", "--network", ids[one][:12], *SLEEP)
    assert (on(engine, f"{name}c"), mode(engine, f"{name}c"), links(engine, f"{name}c")) == ({one}, ids[one], 1)


def test_name_of_a_removed_network_does_not_match_the_id_of_another_network(engine: Engine, name: str) -> None:
    """The name of the removed network is a prefix of another network's ID. The container must not be connected to the other
    network."""
    victim = engine.ok("network", "create", f"victim-{name}")
    try:
        own = victim[:2]
        engine.ok("network", "create", own)
        engine.ok("create", "--name", name, "--network", own, *SLEEP)
        engine.ok("network", "rm", own)
        result = engine.docker("start", name)
        assert result.code == 1 and f"network {own} not found" in result.err
        assert on(engine, name) == {own}
    finally:
        engine.docker("rm", "-f", name)
        engine.ok("network", "rm", f"victim-{name}")


def test_networks_with_the_name_of_a_network_mode_are_refused(
    engine: Engine, name: str, networks: Callable[..., str]
) -> None:
    other = networks("other")
    engine.ok("run", "-d", "--name", f"{name}x", *SLEEP)
    for network in ("default", "host", f"container:{engine.inspect(f'{name}x')['Id']}"):
        status, said = engine.api("POST", "/networks/create", {"Name": network})
        assert (status, said["message"]) == (403, f"operation is not permitted on predefined {network} network ")
    host = next(each["Id"] for each in engine.api("GET", "/networks")[1] if each["Name"] == "host")
    for endpoints, network_mode in (
        ({"host": {}}, "bridge"),
        ({other: {}, "host": {}}, "bridge"),
        ({"x": {"NetworkID": host}}, ""),
        ({other: {}}, "host"),
        ({other: {}, "none": {}}, ""),
        ({}, host),
    ):
        status, said = create(engine, name, endpoints, network_mode)
        assert status == 400, (endpoints, network_mode, said)


def test_running_container_can_leave_and_join_networks(engine: Engine, name: str, networks: Callable[..., str]) -> None:
    one, two = networks("one"), networks("two")
    engine.ok("run", "-d", "--name", name, "--network", one, *SLEEP)
    engine.ok("network", "disconnect", one, name)
    assert (on(engine, name), links(engine, name), mode(engine, name)) == (set(), 0, one)
    engine.ok("network", "connect", two, name)
    assert (on(engine, name), route(engine, name), mode(engine, name)) == ({two}, gateway(engine, two), one)
    engine.ok("network", "disconnect", two, name)
    engine.ok("restart", "-t", "0", name)
    assert (on(engine, name), links(engine, name)) == (set(), 0)
    engine.ok("exec", name, "ping", "-c", "1", "127.0.0.1")
    engine.ok("network", "connect", two, name)
    engine.ok("restart", "-t", "0", name)
    assert (on(engine, name), links(engine, name)) == ({two}, 1)
    engine.ok("network", "rm", one)
    # A stopped container
    engine.ok("create", "--name", f"{name}b", *SLEEP)
    engine.ok("network", "disconnect", "bridge", f"{name}b")
    engine.ok("start", f"{name}b")
    assert (on(engine, f"{name}b"), mode(engine, f"{name}b")) == (set(), "bridge")
    # The container's networks count, not its network mode
    engine.ok("run", "-d", "--name", f"{name}c", "--network", "none", *SLEEP)
    result = engine.docker("network", "connect", two, f"{name}c")
    assert result.code == 1 and "one of the networks in private (none) mode" in result.err
    engine.ok("network", "disconnect", "none", f"{name}c")
    engine.ok("network", "connect", two, f"{name}c")
    assert (on(engine, f"{name}c"), mode(engine, f"{name}c")) == ({two}, "none")


def _from_every_side(engine: Engine, port: int, name: str) -> None:
    for address in (f"127.0.0.1:{port}", f"[::1]:{port}", f"{own_address()}:{port}"):
        served(engine, address, name)


def test_default_gateway_is_chosen_again_after_each_connect_and_disconnect(
    engine: Engine, name: str, networks: Callable[..., str]
) -> None:
    one, two, port = networks("one"), networks("two"), free_port()
    web(engine, name, "-p", f"{port}:80")
    _from_every_side(engine, port, name)
    engine.ok("network", "connect", one, name)
    assert route(engine, name) == gateway(engine, "bridge")
    engine.ok("network", "disconnect", "bridge", name)
    assert route(engine, name) == gateway(engine, one)
    _from_every_side(engine, port, name)
    assert engine.ok("port", name) == f"80/tcp -> 0.0.0.0:{port}\n80/tcp -> [::]:{port}"
    # A higher gateway priority takes effect at once
    endpoint = {"Container": name, "EndpointConfig": {"GwPriority": 7}}
    assert engine.api("POST", f"/v1.48/networks/{two}/connect", endpoint)[0] == 200
    assert route(engine, name) == gateway(engine, two)
    _from_every_side(engine, port, name)
    engine.ok("network", "disconnect", one, name)
    assert route(engine, name) == gateway(engine, two)
    _from_every_side(engine, port, name)
    # Without a gateway, no port is published
    engine.ok("network", "disconnect", two, name)
    assert (engine.ok("port", name), curl(engine, f"127.0.0.1:{port}"), curl(engine, f"{own_address()}:{port}")) == (
        "",
        "",
        "",
    )
    web(engine, f"{name}b", "-p", f"{port}:80")
    _from_every_side(engine, port, f"{name}b")
    result = engine.docker("network", "connect", one, name)
    assert result.code == 1 and "port is already allocated" in result.err
    assert (on(engine, name), links(engine, name)) == (set(), 0)
    engine.ok("rm", "-f", f"{name}b")
    engine.ok("network", "connect", one, name)
    _from_every_side(engine, port, name)
    engine.ok("restart", "-t", "0", name)
    _from_every_side(engine, port, name)


def test_ports_are_published_when_a_network_with_a_gateway_is_connected(
    engine: Engine, name: str, networks: Callable[..., str]
) -> None:
    inner, port = networks("inner", "--internal"), free_port()
    web(engine, name, "-p", f"{port}:80", "--network", inner)
    assert (route(engine, name), engine.ok("port", name)) == ("", "")
    engine.ok("network", "connect", "bridge", name)
    assert route(engine, name) == gateway(engine, "bridge")
    _from_every_side(engine, port, name)


def test_ports_are_published_on_the_recorded_network_after_a_crash(fresh: Callable[..., Engine]) -> None:
    """The next daemon publishes ports on the network that the container's row contains."""
    engine, port = fresh({"live-restore": True, "shutdown-timeout": 3}), free_port()
    engine.ok("network", "create", "other")
    web(engine, "web", "-p", f"{port}:80")
    engine.ok("network", "connect", "other", "web")
    engine.ok("network", "disconnect", "bridge", "web")
    engine.kill()
    engine.start()
    _from_every_side(engine, port, "web")
    engine.ok("network", "connect", "bridge", "web")
    engine.ok("network", "disconnect", "other", "web")
    _from_every_side(engine, port, "web")
    until(lambda: route(engine, "web") == gateway(engine, "bridge"), "the route")
    engine.ok("rm", "-f", "web")
    engine.ok("network", "rm", "other")


def test_exposed_ports_are_shown_only_on_a_network_with_a_gateway(
    engine: Engine, name: str, networks: Callable[..., str]
) -> None:
    """As in dockerd 26, exposed ports are shown only on a network with a gateway."""
    inner = networks("inner", "--internal")
    engine.ok("run", "-d", "--name", f"{name}x", *SLEEP)
    engine.ok("run", "-d", "--name", f"{name}y", "--expose", "80", *SLEEP)
    assert engine.inspect(f"{name}y")["NetworkSettings"]["Ports"] == {"80/tcp": None}
    for number, network in enumerate(("host", "none", inner)):
        one = f"{name}{number}"
        engine.ok("create", "--name", one, "--network", network, "--expose", "80", *SLEEP)
        for step in ((), ("start", one), ("stop", "-t", "0", one)):
            if step:
                engine.ok(*step)
            (listed,) = [
                each for each in engine.api("GET", "/v1.45/containers/json?all=1")[1] if each["Names"] == [f"/{one}"]
            ]
            assert (engine.inspect(one)["NetworkSettings"]["Ports"], listed["Ports"]) == ({}, []), (network, step)
    engine.ok("network", "disconnect", "bridge", f"{name}y")
    assert engine.inspect(f"{name}y")["NetworkSettings"]["Ports"] == {}
