"""Real packets between containers, the host and another host on macvlan networks, in network namespaces of the test."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from orlop_net_macvlan import IpvlanDriver, MacvlanDriver
from orlop_sdk import (
    Address,
    Conflict,
    DriverError,
    Endpoint,
    EndpointState,
    InvalidParameter,
    NetworkContext,
    NetworkSpec,
    Subnet,
    linux,
)
from orlop_sdk.networking import RouteSocket, netlink
from orlop_sdk.testing import in_own_network

pytestmark = pytest.mark.root

CONTEXT = NetworkContext(instance="test", default_bridge="orlt0", state_dir="/nonexistent")
SUBNETS = (Subnet("10.211.0.0/24", "10.211.0.254"), Subnet("fd00:211::/64", "fd00:211::254"))
REMOTE, REMOTE6 = "10.211.0.254", "fd00:211::254"
BEYOND = "192.0.2.7"


def run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def spec(ident: str = "a", **options: str) -> NetworkSpec:
    options = {"parent": "eth0", **options}
    return NetworkSpec(id=ident * 64, name=f"net-{ident}", subnets=SUBNETS, options=options, ipv6=True)


class Namespace:
    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.fd = linux.new_network_namespace()
        stack.callback(os.close, self.fd)
        self.path = f"/proc/{os.getpid()}/fd/{self.fd}"

    def run(self, *argv: str) -> str:
        with linux.in_network_namespace(self.fd):
            return run(*argv)

    def reaches(self, address: str, seconds: int = 20) -> bool:
        """Whether an echo is answered."""
        with linux.in_network_namespace(self.fd):
            ping = ["busybox", "ping", "-c", "1", "-W", str(seconds), address]
            return subprocess.run(ping, capture_output=True, check=False).returncode == 0

    def is_cut_off_from(self, address: str) -> bool:
        return not self.reaches(address, 1)


class Host:
    """The host (this thread's namespace) with the link eth0, whose other end is in the namespace of another host. The other
    host is the gateway of the networks; it also has an address outside the networks' subnets."""

    def __init__(self, stack: contextlib.ExitStack, driver: MacvlanDriver | IpvlanDriver) -> None:
        self.stack, self.driver = stack, driver
        self.remote = Namespace(stack)
        self.connect()

    def connect(self) -> None:
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "peer0", "netns", self.remote.path)
        run("ip", "address", "add", "10.211.0.250/24", "dev", "eth0")
        run("ip", "link", "set", "eth0", "up")
        for address in (f"{REMOTE}/24", f"{BEYOND}/32", f"{REMOTE6}/64"):
            self.remote.run("ip", "address", "add", address, "dev", "peer0", *(["nodad"] if ":" in address else []))
        self.remote.run("ip", "link", "set", "peer0", "up")

    async def container(self, network: NetworkSpec, number: int, **more: Any) -> tuple[Namespace, Endpoint, EndpointState]:
        namespace = Namespace(self.stack)
        addresses = (
            Address(f"10.211.0.{number}/24", network.subnets[0].gateway),
            Address(f"fd00:211::{number}/64", network.subnets[1].gateway),
        )
        endpoint = Endpoint(
            id=f"{number:02x}" * 32,
            network=network,
            container_id=f"{number:02x}" * 32,
            netns=namespace.path,
            mac=more.pop("mac", f"02:42:00:00:00:{number:02x}"),
            addresses=more.pop("addresses", addresses),
            **more,
        )
        return namespace, endpoint, await self.driver.attach(endpoint)


def on_host(
    kind: type[MacvlanDriver | IpvlanDriver] = MacvlanDriver,
) -> Callable[[Callable[[Host], Awaitable[None]]], Callable[[], None]]:
    def decorate(test: Callable[[Host], Awaitable[None]]) -> Callable[[], None]:
        def wrapper() -> None:
            async def main() -> None:
                driver = kind(CONTEXT)
                try:
                    with contextlib.ExitStack() as stack:
                        await test(Host(stack, driver))
                finally:
                    await driver.close()

            in_own_network(main)

        wrapper.__name__, wrapper.__doc__ = test.__name__, test.__doc__
        return wrapper

    return decorate


@on_host()
async def test_containers_reach_each_other_and_other_hosts(host: Host) -> None:
    network = spec()
    await host.driver.create_network(network)
    one, _, _ = await host.container(network, 2)
    two, _, state = await host.container(network, 3)
    for address in ("10.211.0.3", "fd00:211::3", REMOTE, REMOTE6, BEYOND):
        assert one.reaches(address), address
    assert host.remote.reaches("10.211.0.2") and host.remote.reaches("fd00:211::3")
    assert state == EndpointState(mac="02:42:00:00:00:03")
    assert "10.211.0.3 dev peer0 lladdr 02:42:00:00:00:03" in host.remote.run("ip", "neigh") or two.reaches(REMOTE)
    assert "02:42:00:00:00:02" in host.remote.run("ip", "neigh", "show", "10.211.0.2")
    # The kernel passes no packets between the host and a container through the parent
    assert one.is_cut_off_from("10.211.0.250")


@pytest.mark.parametrize("mode", ["private", "vepa"])
def test_modes_private_and_vepa_isolate_containers(mode: str) -> None:
    @on_host()
    async def separated(host: Host) -> None:
        network = spec(macvlan_mode=mode)
        await host.driver.create_network(network)
        one, _, _ = await host.container(network, 2)
        two, _, _ = await host.container(network, 3)
        assert one.reaches(REMOTE) and two.reaches(REMOTE6)
        assert one.is_cut_off_from("10.211.0.3") and two.is_cut_off_from("fd00:211::2")

    separated()


@on_host()
async def test_mode_passthru_allows_only_one_container_on_the_parent(host: Host) -> None:
    network = spec(macvlan_mode="passthru")
    await host.driver.create_network(network)
    one, endpoint, state = await host.container(network, 2)
    assert one.reaches(REMOTE)
    with pytest.raises(DriverError, match="cannot have this link \\(mode passthru allows one container\\)"):
        await host.container(network, 3)
    for mode in ("bridge", "passthru"):
        with pytest.raises(Conflict, match="network aaaaaaaaaaaa is already using parent interface eth0 in mode passthru"):
            await host.driver.create_network(spec("b", macvlan_mode=mode))
    await host.driver.detach(endpoint, state)
    await host.container(network, 3)


@on_host()
async def test_networks_can_share_a_parent_except_in_mode_passthru(host: Host) -> None:
    await host.driver.create_network(spec("a"))
    await host.driver.create_network(spec("b", macvlan_mode="private"))
    with pytest.raises(Conflict, match="parent interface eth0, which mode passthru cannot share"):
        await host.driver.create_network(spec("c", macvlan_mode="passthru"))


@on_host()
async def test_containers_on_a_network_without_parent_reach_no_other_host(host: Host) -> None:
    network = NetworkSpec(id="d" * 64, name="alone", subnets=SUBNETS, internal=True)
    await host.driver.create_network(network)
    one, _, _ = await host.container(network, 2)
    await host.container(network, 3)
    assert one.reaches("10.211.0.3") and one.reaches("fd00:211::3")
    assert one.is_cut_off_from(REMOTE) and host.remote.is_cut_off_from("10.211.0.2")
    assert "default" not in one.run("ip", "route") + one.run("ip", "-6", "route")
    assert "dm-dddddddddddd" in run("ip", "-br", "link")
    # Packets to the parent's own addresses are dropped, even if a container adds a route
    one.run("ip", "route", "add", "192.0.2.0/24", "dev", "eth0")
    assert one.is_cut_off_from("10.211.0.250") and one.is_cut_off_from(BEYOND)


@on_host()
async def test_link_has_the_name_mac_mtu_and_sysctls_of_the_endpoint(host: Host) -> None:
    network = spec(**{"com.docker.network.driver.mtu": "1400"})
    await host.driver.create_network(network)
    one, _, _ = await host.container(
        network, 2, ifname="lan0", mac="02:aa:00:00:00:01", sysctls=(("net.ipv4.conf.IFNAME.log_martians", "1"),)
    )
    shown = one.run("ip", "-d", "link", "show", "lan0")
    assert "mtu 1400" in shown and "02:aa:00:00:00:01" in shown and "macvlan mode bridge" in shown
    assert one.run("busybox", "sysctl", "-n", "net.ipv4.conf.lan0.log_martians").strip() == "1"
    assert f"default via {REMOTE} dev lan0" in one.run("ip", "route")


@on_host()
async def test_connect_with_a_mac_in_use_fails_and_leaves_no_link(host: Host) -> None:
    network = spec()
    await host.driver.create_network(network)
    await host.container(network, 2)
    with pytest.raises(DriverError, match="its MAC or IP address is in use on the parent"):
        await host.container(network, 3, mac="02:42:00:00:00:02")
    with RouteSocket() as route:
        inside = [link.name for ident in route.namespace_ids() for link in route.links(ident) if link.kind == "macvlan"]
    assert inside == ["eth0"]


@on_host()
async def test_error_for_a_missing_parent_contains_its_name(host: Host) -> None:
    network = spec()
    await host.driver.create_network(network)
    run("ip", "link", "set", "eth0", "down")
    (drift,) = await host.driver.audit([network], [])
    assert (drift.kind, drift.object, drift.repair) == ("damaged", "link eth0", "")
    run("ip", "link", "del", "eth0")
    with pytest.raises(DriverError, match="to network net-a: parent eth0 does not exist"):
        await host.container(network, 2)
    for parent, text in (("nosuch", "invalid subinterface vlan name nosuch"), ("no.5", "was not found on the host: no")):
        with pytest.raises(InvalidParameter, match=text):
            await host.driver.create_network(spec("b", parent=parent))


@on_host()
async def test_restore_reconnects_containers_after_their_parent_was_deleted_and_created_again(host: Host) -> None:
    """The kernel deletes a macvlan link together with its parent."""
    network = spec()
    await host.driver.create_network(network)
    one, endpoint, state = await host.container(network, 2)
    run("ip", "link", "del", "eth0")
    assert "eth0" not in one.run("ip", "-br", "link")
    host.connect()
    (drift,) = await host.driver.audit([network], [(endpoint, state)])
    assert (drift.kind, drift.object) == ("missing", "link eth0 of container 020202020202")
    again = MacvlanDriver(CONTEXT)
    try:
        await again.create_network(network)
        await again.restore([network], [(endpoint, state)])
        assert one.reaches(REMOTE)
        assert list(await again.audit([network], [(endpoint, state)])) == []
    finally:
        await again.close()


@on_host()
async def test_restore_removes_unused_parents_and_stray_links(host: Host) -> None:
    """Incomplete links, whose daemon died between two requests, are removed, too."""
    alone = NetworkSpec(id="d" * 64, name="alone", subnets=SUBNETS)
    await host.driver.create_network(alone)
    one, _, _ = await host.container(alone, 2)
    with RouteSocket() as route:
        parent = next(link for link in route.links() if link.name.startswith("dm-"))
        link = next(link for link in route.links(route.namespace_id(one.fd)) if link.kind == "macvlan")
        half = netlink.add_link("o00000005", "macvlan", parent=parent.ifindex, namespace=one.fd, group=5)
        foreign = netlink.add_link("mine", "macvlan", parent=parent.ifindex, namespace=one.fd, group=7)
        route.change(half, foreign)
    assert link.group != 0
    found = await host.driver.audit([alone], [])
    assert [drift.kind for drift in found] == ["stray", "stray"]
    await host.driver.restore([alone], [])
    assert {line.split("@")[0].split()[0] for line in one.run("ip", "-br", "link").splitlines()} == {"lo", "mine"}
    await host.driver.restore([], [])
    assert "dm-" not in run("ip", "-br", "link")


@on_host()
async def test_restore_continues_after_a_link_that_cannot_be_removed(host: Host) -> None:
    """A process of a container with CAP_NET_ADMIN can make a link that the driver takes for a stray link of its own. The
    kernel deletes no links by the default group."""
    network = spec()
    await host.driver.create_network(network)
    one, first, first_state = await host.container(network, 2)
    two, second, second_state = await host.container(network, 3)
    for command in (
        "add v0 type veth peer name v1",
        "add forged link v0 type macvlan",
        "set forged alias orlop-test:macvlan-endpoint:forged",
    ):
        one.run("ip", "link", *command.split())
    run("ip", "link", "del", "eth0")
    host.connect()
    await host.driver.restore([network], [(first, first_state), (second, second_state)])
    assert one.reaches(REMOTE) and two.reaches(REMOTE)


@on_host()
async def test_restore_ignores_a_forged_link_with_the_alias_of_another_container(host: Host) -> None:
    network = spec()
    await host.driver.create_network(network)
    one, first, first_state = await host.container(network, 2)
    two, second, second_state = await host.container(network, 3)
    for command in (
        "add v0 type veth peer name v1",
        "add forged link v0 type macvlan",
        f"set forged alias orlop-test:macvlan-endpoint:{second.id}",
    ):
        one.run("ip", "link", *command.split())
    before = two.run("ip", "-o", "link", "show", "eth0").split(":")[0]
    await host.driver.restore([network], [(first, first_state), (second, second_state)])
    assert two.run("ip", "-o", "link", "show", "eth0").split(":")[0] == before, "the link was made again"


@on_host()
async def test_restore_keeps_the_parent_of_a_network_with_invalid_options(host: Host) -> None:
    alone = NetworkSpec(id="d" * 64, name="alone", subnets=SUBNETS)
    await host.driver.create_network(alone)
    one, endpoint, state = await host.container(alone, 2)
    invalid = msgspec.structs.replace(alone, options={"macvlan_mode": "of another version"})
    await host.driver.restore([invalid], [(endpoint, state)])
    assert "eth0" in one.run("ip", "-br", "link")
    assert list(await host.driver.audit([invalid], [(endpoint, state)])) == []


@on_host()
async def test_parent_that_cannot_be_enabled_is_removed_again(host: Host) -> None:
    """For example, the kernel does not enable a VLAN link while its lower link is down."""
    enable = netlink.set_up
    netlink.set_up = lambda _: enable(1 << 30)  # there is no such link
    try:
        with pytest.raises(DriverError, match="cannot enable dm-dddddddddddd, the parent link: No such device"):
            await host.driver.create_network(NetworkSpec(id="d" * 64, name="alone", subnets=SUBNETS))
    finally:
        netlink.set_up = enable
    assert "dm-" not in run("ip", "-br", "link")


@on_host()
async def test_detach_removes_the_link_from_a_namespace_that_still_exists_after_its_container(host: Host) -> None:
    network = spec()
    await host.driver.create_network(network)
    one, endpoint, state = await host.container(network, 2)
    await host.driver.detach(msgspec.structs.replace(endpoint, netns=""), state)
    assert "eth0" not in one.run("ip", "-br", "link")
    one, endpoint, state = await host.container(network, 2)
    other = MacvlanDriver(CONTEXT)  # a driver that has not seen the attach
    try:
        await other.detach(msgspec.structs.replace(endpoint, netns=""), state)
    finally:
        await other.close()
    assert "eth0" not in one.run("ip", "-br", "link")


def _kernel_has(kind: str) -> bool:
    found: list[bool] = []

    async def main() -> None:
        run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "peer0")
        with RouteSocket() as route:
            parent = next(link for link in route.links() if link.name == "eth0")
            data = netlink.attribute(1, (50).to_bytes(2, "little")) if kind == "vlan" else b""
            try:
                route.change(netlink.add_link("x0", kind, data, parent=parent.ifindex))
                found.append(True)
            except OSError as error:
                assert error.errno == errno.EOPNOTSUPP
                found.append(False)

    in_own_network(main)
    return found[0]


@on_host()
async def test_vlan_parent_is_made_and_removed_with_its_last_network(host: Host) -> None:
    if not _kernel_has("vlan"):
        with pytest.raises(DriverError, match=r"failed to create eth0\.50 vlan link: Operation not supported"):
            await host.driver.create_network(spec("a", parent="eth0.50"))
        return
    one, two = spec("a", parent="eth0.50"), spec("b", parent="eth0.50")
    await host.driver.create_network(one)
    await host.driver.create_network(two)
    host.remote.run("ip", "link", "add", "link", "peer0", "name", "peer0.50", "type", "vlan", "id", "50")
    host.remote.run("ip", "address", "add", "10.211.0.9/24", "dev", "peer0.50")
    host.remote.run("ip", "link", "set", "peer0.50", "up")
    inside, endpoint, state = await host.container(one, 2)
    assert inside.reaches("10.211.0.9") and inside.is_cut_off_from(REMOTE)
    await host.driver.detach(endpoint, state)
    await host.driver.delete_network(one)
    assert "eth0.50" in run("ip", "-br", "link")
    await host.driver.delete_network(two)
    assert "eth0.50" not in run("ip", "-br", "link")


@pytest.mark.parametrize("mode", ["l2", "l3", "l3s"])
def test_ipvlan_connects_containers_or_reports_that_the_kernel_has_no_ipvlan(mode: str) -> None:
    @on_host(IpvlanDriver)
    async def connected(host: Host) -> None:
        network = spec(ipvlan_mode=mode)
        await host.driver.create_network(network)
        with pytest.raises(InvalidParameter, match="ipvlan interfaces do not support custom mac address assignment"):
            await host.container(network, 2)
        if not _kernel_has("ipvlan"):
            with pytest.raises(DriverError, match="failed to create the ipvlan port: this kernel has no ipvlan links"):
                await host.container(network, 2, mac="")
            return
        one, _, state = await host.container(network, 2, mac="")
        await host.container(network, 3, mac="")
        assert state == EndpointState()
        assert one.reaches("10.211.0.3") and one.reaches("fd00:211::3")
        if mode == "l2":
            assert one.reaches(REMOTE) and one.reaches(BEYOND)
        else:
            assert "default dev eth0" in one.run("ip", "route")
            host.remote.run("ip", "route", "replace", "10.211.0.2/32", "via", "10.211.0.250")
            assert one.reaches(REMOTE)

    connected()
