"""Networks with the docker client: published ports from every side, modes, DNS names, user-defined networks."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Callable

import pytest
from tests.integration.engine import Engine, free_subnets, own_address, until

from orlop_sdk import linux
from orlop_sdk.testing.ports import free_port

pytestmark = pytest.mark.root

SLEEP = ("busybox", "sleep", "600")


def web(engine: Engine, name: str, *flags: str) -> str:
    """A web server whose page contains its name."""
    page = f"mkdir /www; echo page of {name} > /www/index.html; exec httpd -f -h /www"
    return engine.ok("run", "-d", "--name", name, *flags, "busybox", "sh", "-c", page)


def curl(engine: Engine, address: str) -> str:
    return engine.run(["curl", "-sf", "--max-time", "5", f"http://{address}/"]).line


def served(engine: Engine, address: str, name: str) -> None:
    until(lambda: curl(engine, address) == f"page of {name}", f"{name} answers at {address}")


def wget(engine: Engine, address: str, *flags: str) -> str:
    return engine.docker("run", "--rm", *flags, "busybox", "wget", "-qO-", "-T", "5", f"http://{address}/").line


def test_published_port_is_reached_at_every_address(engine: Engine, name: str) -> None:
    port = free_port()
    web(engine, name, "-p", f"{port}:80")
    served(engine, f"127.0.0.1:{port}", name)
    served(engine, f"localhost:{port}", name)
    served(engine, f"[::1]:{port}", name)
    served(engine, f"{own_address()}:{port}", name)
    served(engine, f"{engine.address(name)}:80", name)
    gateway = engine.inspect(name)["NetworkSettings"]["Networks"]["bridge"]["Gateway"]
    assert wget(engine, f"{gateway}:{port}") == f"page of {name}"
    assert wget(engine, f"{own_address()}:{port}") == f"page of {name}"
    assert wget(engine, f"{engine.address(name)}:80") == f"page of {name}"
    # Also from the container itself, through the host
    assert engine.ok("exec", name, "wget", "-qO-", "-T", "5", f"http://{own_address()}:{port}/") == f"page of {name}"
    engine.ok("stop", "-t", "0", name)
    assert curl(engine, f"127.0.0.1:{port}") == ""
    engine.ok("start", name)
    served(engine, f"127.0.0.1:{port}", name)
    assert engine.ok("port", name) == f"80/tcp -> 0.0.0.0:{port}\n80/tcp -> [::]:{port}"


def test_port_published_on_one_address_is_not_reached_on_others(engine: Engine, name: str) -> None:
    port = free_port()
    web(engine, name, "-p", f"127.0.0.1:{port}:80")
    served(engine, f"127.0.0.1:{port}", name)
    assert curl(engine, f"{own_address()}:{port}") == ""
    assert engine.ok("ps", "--filter", f"name={name}", "--format", "{{.Ports}}") == f"127.0.0.1:{port}->80/tcp"


def test_exposed_port_is_published_on_a_free_host_port(engine: Engine, name: str) -> None:
    web(engine, name, "-P", "--expose", "80")
    address = engine.ok("port", name, "80").splitlines()[0]
    served(engine, f"127.0.0.1:{address.rpartition(':')[2]}", name)


def test_udp_port_is_published(engine: Engine, name: str) -> None:
    port = free_port()
    engine.ok("run", "-d", "--name", name, "-p", f"{port}:5000/udp", *SLEEP)
    # busybox has no UDP server, so run one in the container's network namespace
    namespace = os.open(f"/proc/{engine.inspect(name)['State']['Pid']}/ns/net", os.O_RDONLY)
    with linux.in_network_namespace(namespace):
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind(("0.0.0.0", 5000))
    os.close(namespace)
    with server:
        server.settimeout(5)
        for address in ("127.0.0.1", own_address(), engine.address(name)):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.settimeout(5)
                client.connect((address, 5000 if address == engine.address(name) else port))
                for text in (b"one", b"two"):
                    client.send(text)
                    got, peer = server.recvfrom(100)
                    assert got == text
                    server.sendto(b"got " + text, peer)
                    assert client.recv(100) == b"got " + text


def test_published_port_of_a_routed_network_is_reached_at_the_address_of_the_container(engine: Engine, name: str) -> None:
    """In Docker's gateway mode `routed`, no port of the host is used, and inspect shows an empty host port."""
    network, port = f"routed-{name}", free_port()
    engine.ok("network", "create", "-o", "com.docker.network.bridge.gateway_mode_ipv4=routed", network)
    try:
        web(engine, name, "--network", network, "-p", f"0.0.0.0:{port}:80")
        served(engine, f"{engine.address(name, network)}:80", name)
        assert engine.inspect(name)["NetworkSettings"]["Ports"] == {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": ""}]}
        assert engine.ok("ps", "--filter", f"name={name}", "--format", "{{.Ports}}") == "80/tcp"
        with socket.create_server(("0.0.0.0", port)):
            engine.ok("restart", "-t", "0", name)
    finally:
        engine.docker("rm", "-f", name)
        engine.ok("network", "rm", network)


def test_published_port_that_is_in_use_is_refused(engine: Engine, name: str) -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
        result = engine.docker("run", "-d", "--name", name, "-p", f"{port}:80", *SLEEP)
        assert result.code == 125
        assert f"Bind for 0.0.0.0:{port} failed: port is already allocated" in result.err or (
            f"0.0.0.0:{port}" in result.err and "address already in use" in result.err
        )
        assert re.search(rf"\(port {port} is held by .+, pid {os.getpid()}\)", result.err)
        assert engine.state(name) == "created"
    assert engine.ok("start", name) == name
    result = engine.docker("run", "-d", "--name", f"{name}b", "-p", f"{port}:80", *SLEEP)
    assert result.code == 125
    refusal = f"Bind for 0.0.0.0:{port} failed: port is already allocated"
    assert f"{refusal} (port {port} is held by container {name})" in result.err
    assert engine.state(f"{name}b") == "created"
    engine.ok("rm", "-f", name)
    engine.ok("start", f"{name}b")


def test_container_with_network_none_has_only_loopback(engine: Engine) -> None:
    out = engine.ok("run", "--rm", "--network", "none", "busybox", "sh", "-c", "ls /sys/class/net; ip route")
    assert out == "lo"


def test_container_with_network_host_sees_the_interfaces_of_the_host(engine: Engine) -> None:
    own = json.loads(engine.run(["ip", "-j", "link"], check=0).out)
    out = engine.ok("run", "--rm", "--network", "host", "busybox", "sh", "-c", "ls /sys/class/net; hostname")
    assert "lo" in out.split()
    assert {link["ifname"] for link in own if link["ifname"].startswith("eth")} <= set(out.split())
    assert out.splitlines()[-1] == socket.gethostname()


def test_container_can_share_the_network_of_another_container(engine: Engine, name: str) -> None:
    web(engine, name)
    until(lambda: wget(engine, "127.0.0.1:80", "--network", f"container:{name}") == f"page of {name}", "the shared loopback")
    out = engine.ok("run", "--rm", "--network", f"container:{name}", "busybox", "hostname")
    assert out == engine.inspect(name)["Id"][:12]
    engine.ok("kill", name)
    result = engine.docker("run", "--rm", "--network", f"container:{name}", "busybox", "true")
    assert result.code == 125
    assert "cannot join network namespace of a non running container" in result.err or (
        "cannot join net namespace of a non running container" in result.err
    )


def test_missing_networks_are_reported(engine: Engine, name: str) -> None:
    result = engine.docker("run", "--name", name, "--network", "no-such", "busybox", "true")
    assert (result.code, result.err) == (125, "docker: Error response from daemon: network no-such not found.\n")
    assert engine.state(name) == "created"
    result = engine.docker("run", "--rm", "--network", "container:no-such", "busybox", "true")
    assert (result.code, result.err) == (125, "docker: Error response from daemon: No such container: no-such.\n")


def test_containers_of_a_user_defined_network_reach_only_each_other(engine: Engine, name: str) -> None:
    network = f"n-{name}"
    engine.ok("network", "create", network)
    try:
        web(engine, name, "--network", network)
        address = engine.address(name, network)
        until(lambda: wget(engine, address, "--network", network) == f"page of {name}", "the neighbour answers")
        # Networks are isolated from each other
        assert wget(engine, address) == ""
        assert engine.docker("network", "rm", network).code == 1
    finally:
        engine.docker("rm", "-f", name)
        engine.ok("network", "rm", network)


def test_container_gets_a_requested_address(engine: Engine, name: str) -> None:
    network = f"n-{name}"
    (subnet,) = free_subnets(1)
    engine.ok("network", "create", "--subnet", f"{subnet}.0/24", network)
    try:
        out = engine.ok(
            "run", "--rm", "--network", network, "--ip", f"{subnet}.77", "busybox", "ip", "-4", "addr", "show", "eth0"
        )
        assert f"inet {subnet}.77/24" in out
    finally:
        engine.ok("network", "rm", network)


def test_network_interface_on_the_bridge_is_removed_with_its_container(engine: Engine, name: str) -> None:
    def ports() -> list[str]:
        links = json.loads(engine.run(["ip", "-j", "link", "show", "master", engine.bridge], check=0).out)
        return [link["ifname"] for link in links]

    assert ports() == []
    engine.ok("run", "-d", "--name", name, *SLEEP)
    assert len(ports()) == 1
    engine.ok("rm", "-f", name)
    until(lambda: ports() == [], "the link is gone")


def test_hosts_and_resolv_conf_contain_the_given_settings(engine: Engine, name: str) -> None:
    flags = ["--add-host", "db:10.1.2.3", "--dns", "192.0.2.53", "--dns-search", "ships.example", "--dns-option", "ndots:3"]
    out = engine.ok("run", "--rm", *flags, "busybox", "cat", "/etc/hosts", "/etc/resolv.conf").splitlines()
    assert "10.1.2.3\tdb" in out
    assert "nameserver 192.0.2.53" in out
    assert "search ships.example" in out
    assert "options ndots:3" in out


def test_configured_subnet_of_the_bridge_is_used(fresh: Callable[..., Engine]) -> None:
    engine = fresh({"bip": "10.214.9.1/24", "shutdown-timeout": 3})
    engine.ok("run", "-d", "--name", "first", *SLEEP)
    assert engine.address("first") == "10.214.9.2"
    assert engine.inspect("first")["NetworkSettings"]["Networks"]["bridge"]["Gateway"] == "10.214.9.1"
