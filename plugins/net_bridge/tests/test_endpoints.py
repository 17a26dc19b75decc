"""Endpoints as the kernel reports them, and cleanup when an endpoint cannot be made."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest

from orlop_net_bridge._links import Links
from orlop_net_bridge._network import Bridge
from orlop_sdk import Address, Conflict, DriverError, Endpoint, NetworkSpec, linux
from orlop_sdk.networking import Refused, RouteSocket, netlink
from orlop_sdk.testing import in_own_network

pytestmark = pytest.mark.root

BRIDGE = Bridge("a" * 64, "orlt0", ("10.211.0.1/16", "fd00:211::1/64"), mtu=1400)
HALF = Bridge("b" * 64, "orlt1", ("10.212.0.1/16",))
FOUR = Address("10.211.0.2/16", "10.211.0.1")
SIX = Address("fd00:211::2/64", "fd00:211::1")
MAC = "02:42:0a:d3:00:02"


def run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def ip(*argv: str) -> Any:
    return json.loads(run("ip", "-j", "-d", *argv))


def setting(name: str) -> str:
    """Read a sysctl by a child process, which is in this thread's network namespace."""
    return run("cat", f"/proc/sys/net/{name}").strip()


class Host:
    def __init__(self, links: Links, namespace: int) -> None:
        self.links, self.namespace = links, namespace

    @contextmanager
    def inside(self) -> Iterator[None]:
        with linux.in_network_namespace(self.namespace):
            yield

    def endpoint(self, *addresses: Address, **more: Any) -> Endpoint:
        return Endpoint(
            id="e" * 64,
            network=NetworkSpec(id="a" * 64, name="net-a"),
            container_id="c" * 64,
            netns=f"/proc/{os.getpid()}/fd/{self.namespace}",
            mac=MAC,
            addresses=addresses,
            **more,
        )

    def ports(self) -> list[str]:
        return [link["ifname"] for link in ip("link", "show", "master", "orlt0")]


def on_host(body: Callable[[Host], None], bridge: Bridge = BRIDGE) -> None:
    async def main() -> None:
        links = Links("orlop-test")
        namespace = linux.new_network_namespace()
        try:
            links.ensure_bridge(bridge)
            before = len(os.listdir("/proc/self/fd"))
            body(Host(links, namespace))
            assert len(os.listdir("/proc/self/fd")) == before, "every socket is closed again"
        finally:
            os.close(namespace)
            links.close()

    in_own_network(main)


def test_partly_created_links_are_recognized_after_a_crash() -> None:
    """A link that was made before a crash, but has no alias yet, is recognized by its group. A bridge is adopted, or removed
    as stray."""

    def body(host: Host) -> None:
        host.links.ensure_bridge(HALF)
        (bridge,) = ip("link", "show", "orlt1")
        run("ip", "link", "set", "orlt1", "alias", "")
        host.links.ensure_bridge(HALF)
        assert ip("link", "show", "orlt1")[0]["ifalias"] == bridge["ifalias"]
        name, _ = host.links.connect(host.endpoint(FOUR), BRIDGE)
        for link in ("orlt1", name):
            run("ip", "link", "set", link, "alias", "")
        run("ip", "link", "add", "orlt2", "type", "bridge")  # a link that another program made
        host.links.remove_strangers({BRIDGE.network_id}, {"e" * 64})
        names = {link["ifname"] for link in ip("link", "show")}
        assert {"orlt0", "orlt2"} <= names
        assert not {"orlt1", name} & names

    on_host(body)


def test_attach_configures_both_ends_of_the_link() -> None:
    def body(host: Host) -> None:
        name, mac = host.links.connect(host.endpoint(FOUR, SIX, sysctls=(("net.ipv4.conf.IFNAME.forwarding", "1"),)), BRIDGE)
        assert mac == MAC
        (port,) = ip("link", "show", name)
        assert port["ifalias"] == "orlop-test:endpoint:" + "e" * 64
        assert (port["master"], port["mtu"]) == ("orlt0", 1400) and "UP" in port["flags"]
        assert port["linkinfo"]["info_slave_data"]["hairpin"] is True
        assert port["linkinfo"]["info_slave_data"]["isolated"] is False
        with host.inside():
            (loopback,) = ip("address", "show", "lo")
            assert "UP" in loopback["flags"]
            (eth0,) = ip("address", "show", "eth0")
            assert (eth0["address"], eth0["mtu"]) == (MAC, 1400) and "UP" in eth0["flags"]
            four, six = (each for each in eth0["addr_info"] if each["scope"] == "global")
            assert (four["local"], four["prefixlen"], four["broadcast"]) == ("10.211.0.2", 16, "10.211.255.255")
            assert (six["local"], six["prefixlen"], six["nodad"]) == ("fd00:211::2", 64, True)
            assert "tentative" not in six
            for family, gateway in (("-4", "10.211.0.1"), ("-6", "fd00:211::1")):
                (route,) = json.loads(run("ip", "-j", "-d", family, "route", "show", "default"))
                assert (route["gateway"], route["dev"], route["protocol"]) == (gateway, "eth0", "static")
            assert setting("ipv4/conf/eth0/arp_notify") == "1"
            assert setting("ipv4/conf/default/arp_notify") == "0"
            assert setting("ipv4/conf/eth0/forwarding") == "1"
            assert setting("ipv6/conf/eth0/accept_ra") == "0"
            assert setting("ipv6/conf/eth0/disable_ipv6") == "0"
            assert setting("ipv6/conf/eth0/accept_dad") == "0"

    on_host(body)


def test_link_has_no_ipv6_and_no_default_route_unless_requested() -> None:
    def body(host: Host) -> None:
        host.links.connect(host.endpoint(FOUR, default_route=False), BRIDGE)
        with host.inside():
            assert setting("ipv6/conf/eth0/disable_ipv6") == "1"
            assert "default" not in run("ip", "route")

    on_host(body)


def test_default_route_moves_between_links() -> None:
    other = Bridge("b" * 64, "orlt1", ("10.212.0.1/16", "fd00:212::1/64"))

    def defaults(host: Host) -> list[tuple[str, str]]:
        with host.inside():
            found = [json.loads(run("ip", "-j", family, "route", "show", "default")) for family in ("-4", "-6")]
        return [(route["gateway"], route["dev"]) for routes in found for route in routes]

    def body(host: Host) -> None:
        host.links.ensure_bridge(other)
        former = host.endpoint(FOUR, SIX)
        host.links.connect(former, BRIDGE)
        four, six = Address("10.212.0.2/16", "10.212.0.1"), Address("fd00:212::2/64", "fd00:212::1")
        later = msgspec.structs.replace(host.endpoint(four, six, ifname="eth1", default_route=False), id="f" * 64)
        host.links.connect(later, other)
        assert defaults(host) == [("10.211.0.1", "eth0"), ("fd00:211::1", "eth0")]
        for _ in range(2):
            host.links.reroute(msgspec.structs.replace(later, default_route=True))
            assert defaults(host) == [("10.212.0.1", "eth1"), ("fd00:212::1", "eth1")]
            host.links.reroute(msgspec.structs.replace(former, default_route=False))
            assert defaults(host) == [("10.212.0.1", "eth1"), ("fd00:212::1", "eth1")]
        # The former default route is removed for an IP version that the new gateway does not have.
        host.links.reroute(msgspec.structs.replace(former, addresses=(FOUR,)))
        host.links.reroute(later)
        assert defaults(host) == [("10.211.0.1", "eth0")]
        absent = msgspec.structs.replace(former, ifname="absent0", default_route=False)
        host.links.reroute(absent)
        with pytest.raises(DriverError, match="cannot find absent0"):
            host.links.reroute(msgspec.structs.replace(absent, default_route=True))

    on_host(body)


def test_bridge_ports_are_isolated_if_icc_is_disabled() -> None:
    bridge = msgspec.structs.replace(BRIDGE, icc=False)

    def body(host: Host) -> None:
        filtered = "/proc/sys/net/bridge/bridge-nf-call-iptables"
        if os.path.exists(filtered):  # the file shows this thread's network namespace
            with open(filtered, "w") as file:
                file.write("0")
        name, _ = host.links.connect(host.endpoint(FOUR), bridge)
        (port,) = ip("link", "show", name)
        assert port["linkinfo"]["info_slave_data"]["isolated"] is True
        assert port["linkinfo"]["info_slave_data"]["hairpin"] is True

    on_host(body, bridge)


def test_silenced_bridge_port_is_disabled_until_its_removal() -> None:
    def body(host: Host) -> None:
        name, _ = host.links.connect(host.endpoint(FOUR), BRIDGE)
        host.links.silence(name)
        (port,) = ip("link", "show", name)
        assert port["linkinfo"]["info_slave_data"]["state"] == "disabled" and "UP" not in port["flags"]
        host.links.disconnect(name, "e" * 64)
        host.links.disconnect(name, "e" * 64)
        host.links.silence(name)
        assert host.ports() == []

    on_host(body)


def test_bridge_port_that_cannot_be_silenced_is_removed() -> None:
    def body(host: Host) -> None:
        name, _ = host.links.connect(host.endpoint(FOUR), BRIDGE)
        run("ip", "link", "set", name, "nomaster")
        host.links.silence(name)
        assert name not in run("ip", "-o", "link")

    on_host(body)


def test_endpoint_of_an_earlier_attempt_is_replaced() -> None:
    def body(host: Host) -> None:
        first, _ = host.links.connect(host.endpoint(FOUR), BRIDGE)
        second, _ = host.links.connect(host.endpoint(FOUR), BRIDGE)
        assert host.ports() == [second] != [first]

    on_host(body)


def test_connect_fails_if_the_container_has_a_link_with_the_same_name() -> None:
    def body(host: Host) -> None:
        with host.inside():
            run("ip", "link", "add", "eth0", "type", "bridge")
        with pytest.raises(Conflict, match=r"^cannot connect container c{12} to network net-a: it has a link named eth0$"):
            host.links.connect(host.endpoint(FOUR), BRIDGE)
        assert host.ports() == []

    on_host(body)


def test_failed_attach_leaves_no_link() -> None:
    def body(host: Host) -> None:
        unreachable = msgspec.structs.replace(FOUR, gateway="192.0.2.1")
        cases: list[tuple[Endpoint, str]] = [
            (host.endpoint(unreachable), "cannot connect container c{12} to network net-a: Network is unreachable"),
            (host.endpoint(FOUR, FOUR), "cannot connect container c{12} to network net-a: File exists"),
            (host.endpoint(FOUR, sysctls=(("net.ipv4.nothing", "1"),)), "cannot set net.ipv4.nothing to 1: No such file"),
            (host.endpoint(FOUR, sysctls=(("kernel.x", "1"),)), "cannot set kernel.x: only net"),
            (msgspec.structs.replace(host.endpoint(FOUR), netns="/nonexistent"), "cannot connect .*: No such file"),
        ]
        for endpoint, message in cases:
            with pytest.raises(DriverError, match=message):
                host.links.connect(endpoint, BRIDGE)
            assert host.ports() == []
            with host.inside():
                assert "eth0" not in run("ip", "-o", "link")

    on_host(body)


def test_failed_connect_keeps_the_default_route_of_the_container() -> None:
    def body(host: Host) -> None:
        with host.inside():
            run("ip", "link", "add", "other0", "up", "type", "bridge")
            run("ip", "route", "add", "default", "dev", "other0")
        with pytest.raises(DriverError, match="File exists"):
            host.links.connect(host.endpoint(FOUR, FOUR), BRIDGE)
        with host.inside():
            assert "default dev other0" in run("ip", "route")

    on_host(body)


def test_each_netlink_request_in_a_datagram_gets_its_own_answer() -> None:
    async def main() -> None:
        with RouteSocket() as route:
            route.change()
            route.change(netlink.set_up(1), netlink.add_address(1, "10.1.0.1/24"))
            with pytest.raises(Refused) as caught:
                route.change(
                    netlink.add_address(1, "10.1.0.2/24"),
                    netlink.add_address(1, "10.1.0.1/24"),
                    netlink.delete_link("absent0"),
                    netlink.add_address(1, "10.1.0.3/24"),
                )
            assert str(caught.value) == "cannot add address 10.1.0.1/24: File exists"
            route._sequence = 0xFFFFFFFE
            route.change(netlink.add_address(1, "10.1.0.4/24"), netlink.add_address(1, "10.1.0.5/24"))
            with pytest.raises(Refused, match=r"^cannot delete link absent0: No such device$"):
                route.change(netlink.delete_link("absent0"))
        held = run("ip", "-4", "-o", "address", "show", "lo")
        assert all(f"10.1.0.{last}/24" in held for last in (1, 2, 3, 4, 5))

    in_own_network(main)


def test_netlink_messages_of_other_processes_are_ignored() -> None:
    """A process in the container's network sends a forged success message before the kernel's refusal. The forged message
    must be ignored."""

    async def main() -> None:
        with RouteSocket() as route:
            route.change(netlink.set_up(1))
            port = route._socket.getsockname()[0]
            with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as liar:
                forged = struct.pack("=IHHIIi", 20, 2, 0, 2, port, 0)
                liar.sendto(forged, (port, 0))
            with pytest.raises(Refused, match="No such device"):
                route.change(netlink.delete_link("absent0"))

    in_own_network(main)


def test_request_fails_if_its_netlink_answer_is_lost() -> None:
    with RouteSocket() as route:
        route._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, 1000))
        with pytest.raises(TimeoutError, match="no answer from the kernel"):
            route._receive()
