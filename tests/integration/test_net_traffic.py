"""Packet tests: a published port from every side, masquerading, isolation, restarts; on a test host."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading

import msgspec
import pytest
import trio
from tests.integration.net_host import HOST, HTTP, NETWORK, OTHER, REMOTE, Host, Namespace, on_host, run

from orlop_sdk import LinkedPort, NetworkSpec, PublishedPort, Subnet

pytestmark = pytest.mark.root


@on_host()
async def test_published_port_is_reached_from_everywhere(host: Host) -> None:
    await host.driver.create_network(NETWORK)
    await host.driver.create_network(OTHER)
    one, _, _ = await host.container(2, HTTP)
    two, _, _ = await host.container(3)
    far, _, _ = await host.container(4, network=OTHER)
    assert host.remote.call(HOST, 8080) == REMOTE, "the client's address is kept"
    assert host.call(HOST, 8080) == HOST
    assert two.call(HOST, 8080) == "10.211.0.1", "from its own bridge: masqueraded"
    assert one.call(HOST, 8080) == "10.211.0.1", "its own port: hairpin"
    assert one.call("10.211.0.1", 8080) == "10.211.0.1", "by the bridge's address"
    assert far.call(HOST, 8080) != "", "from another network, by the host's address"
    assert two.call("10.211.0.2", 80) == "10.211.0.3", "directly, container to container"


@on_host()
async def test_port_published_on_one_address_is_reached_only_there(host: Host) -> None:
    run("ip", "address", "add", "192.0.2.9/24", "dev", "eth0")
    await host.driver.create_network(NETWORK)
    await host.container(2, PublishedPort("tcp", "192.0.2.9", 8080, 80))
    await host.container(3, PublishedPort("tcp", "192.0.2.1", 8080, 81))
    assert host.remote.call("192.0.2.9", 8080) == REMOTE
    assert host.remote.call("192.0.2.1", 8080) == REMOTE
    assert host.call("192.0.2.9", 8080) != ""


@on_host()
async def test_outgoing_packets_are_masqueraded(host: Host) -> None:
    await host.driver.create_network(NETWORK)
    one, _, _ = await host.container(2)
    host.remote.serve(9000)
    assert one.call(REMOTE, 9000) == HOST


@on_host()
async def test_outgoing_packets_have_the_configured_source_address(host: Host) -> None:
    run("ip", "address", "add", "192.0.2.9/24", "dev", "eth0")
    network = msgspec.structs.replace(NETWORK, options={"com.docker.network.host_ipv4": "192.0.2.9"})
    await host.driver.create_network(network)
    one, _, _ = await host.container(2, network=network)
    host.remote.serve(9000)
    assert one.call(REMOTE, 9000) == "192.0.2.9"


@on_host()
async def test_unpublished_ports_are_not_reachable(host: Host) -> None:
    await host.driver.create_network(NETWORK)
    await host.driver.create_network(OTHER)
    await host.container(2, HTTP)
    far, _, _ = await host.container(3, network=OTHER)
    with host.remote.inside():
        run("ip", "route", "add", "10.211.0.0/24", "via", HOST)
    assert host.remote.call("10.211.0.2", 81, 0.3) == ""
    assert host.remote.call("10.211.0.2", 80, 0.3) == "", "the container's address is not the published one"
    assert host.remote.call(HOST, 81, 0.3) == ""
    assert far.call("10.211.0.2", 80, 0.3) == "", "bridges are apart"
    assert host.call("10.211.0.2", 81) == "10.211.0.1", "the host itself may"


def mode(ipv4: str, ipv6: str = "nat", *, internal: bool = False) -> NetworkSpec:
    names = "com.docker.network.bridge.gateway_mode_ipv4", "com.docker.network.bridge.gateway_mode_ipv6"
    subnets = (*NETWORK.subnets, Subnet("fd00:211::/64", "fd00:211::1"))
    options = dict(zip(names, (ipv4, ipv6), strict=True))
    return msgspec.structs.replace(NETWORK, subnets=subnets, options=options, internal=internal, ipv6=True)


def route_to_containers(host: Host) -> None:
    with host.remote.inside():
        run("ip", "route", "add", "10.211.0.0/24", "via", HOST)
        run("ip", "-6", "route", "add", "fd00:211::/64", "via", "2001:db8::1")


@on_host()
async def test_published_ports_of_a_routed_network_are_open_at_the_address_of_the_container(host: Host) -> None:
    network = mode("routed")
    await host.driver.create_network(network)
    route_to_containers(host)
    direct = (PublishedPort("tcp", "0.0.0.0", 0, 80), PublishedPort("tcp", "::", 8080, 80))
    one, endpoint, state = await host.container(2, *direct, network=network)
    _, other, its = await host.container(3, network=network)
    one.serve(80, "fd00:211::2")
    host.remote.serve(9000)
    assert one.call(REMOTE, 9000) == "10.211.0.2", "not masqueraded"
    assert host.remote.call("10.211.0.2", 80) == REMOTE, "published"
    assert not host.remote.call("10.211.0.2", 81, timeout=1) and not host.remote.call("10.211.0.3", 80, timeout=1), (
        "not published"
    )
    assert not host.remote.call(HOST, 8080, timeout=1), "no port of the host in this IP version"
    assert host.remote.call("2001:db8::1", 8080) == "2001:db8::2" and not host.remote.call("fd00:211::2", 80, timeout=1), (
        "nat"
    )
    with host.remote.inside():
        assert "1 packets received" in run("busybox", "ping", "-c", "1", "-W", "20", "10.211.0.3")
    assert list(await host.driver.audit([network], [(endpoint, state), (other, its)])) == []
    await host.driver.update(msgspec.structs.replace(endpoint, ports=()), state)
    assert not host.remote.call("10.211.0.2", 80, timeout=1), "withdrawn"


@on_host()
async def test_containers_of_an_unprotected_network_are_reached_at_all_ports(host: Host) -> None:
    network = mode("nat-unprotected", "nat")
    await host.driver.create_network(network)
    route_to_containers(host)
    one, _, _ = await host.container(2, network=network)
    host.remote.serve(9000)
    assert one.call(REMOTE, 9000) == HOST, "masqueraded"
    assert host.remote.call("10.211.0.2", 80) == host.remote.call("10.211.0.2", 81) == REMOTE
    one.serve(80, "fd00:211::2")
    assert not host.remote.call("fd00:211::2", 80, timeout=1), "the other IP version is not affected"


@on_host()
async def test_isolated_network_has_no_address_on_the_host(host: Host) -> None:
    network = mode("isolated", "isolated", internal=True)
    await host.driver.create_network(network)
    one, _, _ = await host.container(2, network=network)
    await host.container(3, network=network)
    assert one.call("10.211.0.3", 80) == "10.211.0.2"
    assert "10.211.0.1" not in run("ip", "address") and "fd00:211::1" not in run("ip", "address")
    assert not host.call("10.211.0.2", 80)


@on_host()
async def test_container_of_an_internal_network_reaches_only_containers_of_this_network(host: Host) -> None:
    network = msgspec.structs.replace(NETWORK, internal=True)
    await host.driver.create_network(network)
    one, _, _ = await host.container(2, network=network)
    two, _, _ = await host.container(3, network=network)
    host.remote.serve(9000)
    assert one.call("10.211.0.3", 80) == "10.211.0.2"
    assert one.call(REMOTE, 9000, 0.3) == ""
    with two.inside(), contextlib.suppress(subprocess.CalledProcessError):
        run("ip", "route", "replace", "default", "via", "10.211.0.1")
    assert two.call(REMOTE, 9000, 0.3) == "", "not even with a route"


async def no_inter_container_traffic(host: Host) -> None:
    network = msgspec.structs.replace(NETWORK, options={"com.docker.network.bridge.enable_icc": "false"})
    await host.driver.create_network(network)
    await host.container(2, HTTP, network=network)
    two, _, _ = await host.container(3, network=network)
    host.remote.serve(9000)
    assert two.call("10.211.0.2", 81, 0.3) == ""
    assert two.call(REMOTE, 9000) == HOST
    assert two.call(HOST, 8080) == "10.211.0.1", "what is published is for everyone"


@on_host()
async def test_containers_do_not_reach_each_other_if_icc_is_off(host: Host) -> None:
    await no_inter_container_traffic(host)


@on_host()
async def test_containers_do_not_reach_each_other_if_icc_and_br_netfilter_are_off(host: Host) -> None:
    """Without br_netfilter, port isolation of the bridge separates containers."""
    setting = "/proc/sys/net/bridge/bridge-nf-call-iptables"
    if os.path.exists(setting):
        with open(setting, "w") as file:
            file.write("0")
    await no_inter_container_traffic(host)


@on_host()
async def test_link_gives_access_only_to_exposed_ports_if_icc_is_off(host: Host) -> None:
    """A link gives access to the exposed ports of the linked container, even after its address has changed. It gives no
    access to another container that gets the old address later."""
    network = msgspec.structs.replace(NETWORK, options={"com.docker.network.bridge.enable_icc": "false"})
    await host.driver.create_network(network)
    _, endpoint, state = await host.container(2, network=network)
    linked = (LinkedPort(endpoint.container_id, "tcp", 80),)
    two, two_endpoint, two_state = await host.container(3, network=network, links=linked)
    three, _, _ = await host.container(4, network=network)
    assert two.call("10.211.0.2", 80) == "10.211.0.3"
    assert two.call("10.211.0.2", 81, 0.3) == "", "no other port"
    assert three.call("10.211.0.2", 80, 0.3) == "", "nobody else"
    await host.driver.detach(endpoint, state)
    await host.container(2, network=network, ident=99)
    assert two.call("10.211.0.2", 80, 0.3) == ""
    _, back, back_state = await host.container(5, network=network, ident=2)
    assert two.call("10.211.0.5", 80) == "10.211.0.3"
    living = [(two_endpoint, two_state), (back, back_state)]
    await host.driver.restore([network], living)
    assert two.call("10.211.0.5", 80) == "10.211.0.3"
    assert list(await host.driver.audit([network], living)) == []
    await host.driver.detach(two_endpoint, two_state)
    assert "10.211.0.5" not in run("nft", "list", "set", "inet", "orlop_test", "linked4")


@on_host()
async def test_ipv6_containers_reach_each_other_and_publish_ports(host: Host) -> None:
    network = NetworkSpec(
        id="c" * 64,
        name="net-c",
        subnets=(Subnet("10.213.0.0/24", "10.213.0.1"), Subnet("fd00:213::/64", "fd00:213::1")),
        ipv6=True,
    )
    await host.driver.create_network(network)
    one, _, _ = await host.container(2, PublishedPort("tcp", "::", 8080, 80), network=network)
    one.serve(82, "::")
    two, _, _ = await host.container(3, PublishedPort("tcp", "::", 8082, 82), network=network)
    two.serve(82, "::")
    assert host.remote.call("2001:db8::1", 8082) == "2001:db8::2"
    assert two.call("fd00:213::2", 82) == "fd00:213::3"
    host.remote.serve(9000, "::")
    assert two.call("2001:db8::2", 9000) == "2001:db8::1"
    with host.remote.inside():
        run("ip", "-6", "route", "add", "fd00:213::/64", "via", "2001:db8::1")
    assert host.remote.call("fd00:213::2", 82, 0.3) == ""


@on_host()
async def test_new_connections_succeed_while_the_bridge_driver_restarts(host: Host) -> None:
    """While one daemon exits and the next daemon restores the rules, every new connection succeeds."""
    await host.driver.create_network(NETWORK)
    _, endpoint, state = await host.container(2, HTTP)
    failures, calls, stop = [], [], threading.Event()

    def hammer() -> None:
        while not stop.is_set():
            answer = host.remote.call(HOST, 8080, 10.0)
            calls.append(answer)
            if answer != REMOTE:
                failures.append(answer)

    thread = threading.Thread(target=hammer)
    thread.start()
    try:
        for _ in range(5):
            await host.driver.close()
            host.driver = host.new_driver()
            await host.driver.create_network(NETWORK)
            await host.driver.restore([NETWORK], [(endpoint, state)])
    finally:
        stop.set()
        await trio.to_thread.run_sync(thread.join)
    assert calls and not failures


@on_host()
async def test_flushed_rules_are_restored_at_the_next_start(host: Host) -> None:
    """Another program flushes the firewall: the next start restores all rules."""
    await host.driver.create_network(NETWORK)
    await host.container(2, HTTP)
    run("nft", "flush", "ruleset")
    assert host.remote.call(HOST, 8080, 0.3) == ""
    await host.container(3, PublishedPort("tcp", "0.0.0.0", 8081, 80))
    assert host.remote.call(HOST, 8080) == REMOTE
    assert host.remote.call(HOST, 8081) == REMOTE


@on_host()
async def test_accept_rules_in_docker_user_are_added_and_removed_with_a_network(host: Host) -> None:
    """dockerd's FORWARD policy is drop. Orlop adds accept rules to DOCKER-USER with a network, and removes them with it."""
    rules = """
        table ip filter {
            chain DOCKER-USER { }
            chain FORWARD { type filter hook forward priority filter; policy drop; jump DOCKER-USER
            }
        }
    """
    run("nft", "-f", "-", stdin=rules)
    await host.driver.create_network(NETWORK)
    one, endpoint, state = await host.container(2, HTTP)
    host.remote.serve(9000)
    assert host.remote.call(HOST, 8080) == REMOTE
    assert one.call(REMOTE, 9000) == HOST
    await host.driver.detach(endpoint, state)
    await host.driver.delete_network(NETWORK)
    listing = run("nft", "list", "table", "ip", "filter")
    assert "orlop" not in listing and "policy drop" in listing


@on_host()
async def test_bridge_of_an_administrator_is_kept_together_with_its_other_links(host: Host) -> None:
    """A bridge made by an administrator, and other links on it, remain when the network is removed."""
    run("ip", "link", "add", "br-admin", "type", "bridge")
    run("ip", "link", "add", "veth1234567", "type", "veth", "peer", "name", "other0")
    run("ip", "link", "set", "veth1234567", "master", "br-admin")
    network = msgspec.structs.replace(NETWORK, options={"com.docker.network.bridge.name": "br-admin"})
    await host.driver.create_network(network)
    _, endpoint, state = await host.container(2, network=network)
    await host.driver.restore([network], [])
    await host.driver.detach(endpoint, state)
    await host.driver.delete_network(network)
    links = run("ip", "-o", "link")
    assert "br-admin" in links and "veth1234567" in links
    assert state.host_link not in links


@on_host(iptables=False)
async def test_driver_adds_no_rules_if_the_setting_iptables_is_false(host: Host) -> None:
    await host.driver.create_network(NETWORK)
    await host.container(2, HTTP)
    two, _, _ = await host.container(3)
    assert two.call("10.211.0.2", 80) == "10.211.0.3"
    assert "orlop" not in run("nft", "list", "tables")


@on_host()
async def test_udp_client_reaches_a_published_port_after_its_container_was_replaced(host: Host) -> None:
    """A client keeps sending from one port while the container behind the published port is replaced."""
    await host.driver.create_network(NETWORK)
    port = PublishedPort("udp", "0.0.0.0", 5353, 53)

    def answer(namespace: Namespace, text: bytes) -> None:
        with namespace.inside():
            server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with server:
            server.bind(("0.0.0.0", 53))
            server.settimeout(2)
            client.send(b"?")
            server.sendto(text, server.recvfrom(10)[1])

    with host.remote.inside():
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with client:
        client.settimeout(2)
        client.connect((HOST, 5353))
        client.send(b"before anyone is there")
        with pytest.raises(ConnectionRefusedError):
            client.recv(10)
        for number, text in ((2, b"first"), (3, b"second")):
            namespace, endpoint, state = await host.container(number, port)
            answer(namespace, text)
            assert client.recv(10) == text
            await host.driver.detach(endpoint, state)
