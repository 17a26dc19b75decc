"""Damage to a network with running containers, by an administrator or another program: `system check` reports it, and
`system check --repair` and the next start of the daemon repair it."""

from __future__ import annotations

import json
from collections.abc import Callable

import msgspec
import pytest
from tests.integration.engine import BUSYBOX, Engine, until
from tests.integration.net_host import HOST, HTTP, NETWORK, REMOTE, Host, Namespace, on_host, run

from orlop_sdk import Endpoint, EndpointState, Subnet
from orlop_sdk.testing.ports import free_port

pytestmark = pytest.mark.root

BRIDGE = f"br-{NETWORK.id[:12]}"
TABLE = ("inet", "orlop_test")
PORT_RULE = ("add", "element", *TABLE, "ports4", "{ tcp . 9999 : 10.9.9.9 . 80 }")
DUAL = msgspec.structs.replace(
    NETWORK,
    subnets=(*NETWORK.subnets, Subnet("fd00:211::/64", "fd00:211::1")),
    ipv6=True,
    options={"com.docker.network.driver.mtu": "1400"},
)


def break_rule(chain: str, start: str) -> None:
    """Delete the first rule of the chain that begins with this text in nft's output."""
    lines = run("nft", "-a", "list", "chain", *TABLE, chain).splitlines()
    handle = next(line.rpartition("handle ")[2] for line in lines if line.strip().startswith(start))
    run("nft", "delete", "rule", *TABLE, chain, "handle", handle)


def mac() -> str:
    return str(json.loads(run("ip", "-j", "link", "show", BRIDGE))[0]["address"])


def write(path: str, value: str) -> None:
    with open(path, "w") as file:
        file.write(value)


# Each damage, and a word of its finding
DAMAGES: dict[str, tuple[Callable[[str], object], str]] = {
    "bridge deleted": (lambda link: run("ip", "link", "del", BRIDGE), "is missing"),
    "bridge down": (lambda link: run("ip", "link", "set", BRIDGE, "down"), "is down"),
    "address gone": (lambda link: run("ip", "addr", "del", "10.211.0.1/24", "dev", BRIDGE), "lacks the address 10.211"),
    "another address": (lambda link: run("ip", "addr", "add", "10.9.9.1/24", "dev", BRIDGE), "has the address 10.9.9.1"),
    "IPv6 address gone": (lambda link: run("ip", "addr", "del", "fd00:211::1/64", "dev", BRIDGE), "lacks the address fd00"),
    "bridge's MTU": (lambda link: run("ip", "link", "set", BRIDGE, "mtu", "1300"), "MTU of 1300"),
    "veth deleted": (lambda link: run("ip", "link", "del", link), "is missing"),
    "veth unplugged": (lambda link: run("ip", "link", "set", link, "nomaster"), "is not a port of"),
    "veth down": (lambda link: run("ip", "link", "set", link, "down"), "is down"),
    "veth's MTU": (lambda link: run("ip", "link", "set", link, "mtu", "1300"), "MTU of 1300"),
    "hairpin off": (lambda link: run("bridge", "link", "set", "dev", link, "hairpin", "off"), "its own published ports"),
    "isolated": (lambda link: run("bridge", "link", "set", "dev", link, "isolated", "on"), "is isolated"),
    "alias gone": (lambda link: run("ip", "link", "set", link, "alias", ""), "alias"),
    "rule deleted": (lambda link: break_rule("forward", "oifname @bridges ct status dnat"), "sets and rules"),
    "rule added": (lambda link: run("nft", "insert", "rule", *TABLE, "forward", "drop"), "sets and rules"),
    "chain added": (
        lambda link: run("nft", "add", "chain", *TABLE, "mine", "{ type filter hook input priority 0; }"),
        "sets",
    ),
    "element added": (lambda link: run("nft", *PORT_RULE), "has an element that belongs to no running container"),
    "table deleted": (lambda link: run("nft", "delete", "table", *TABLE), "sets and rules"),
    "forwarding off": (lambda link: write("/proc/sys/net/ipv4/ip_forward", "0"), "switched off"),
    "IPv6 forwarding off": (lambda link: write("/proc/sys/net/ipv6/conf/all/forwarding", "0"), "switched off"),
}


async def works(host: Host, one: Namespace, two: Namespace) -> None:
    """Whether traffic works, without clearing the neighbour caches."""
    assert host.remote.call(HOST, 8080) == REMOTE
    assert host.call("10.211.0.2", 81) == "10.211.0.1"
    assert two.call("10.211.0.2", 80) == "10.211.0.3"
    assert one.call(HOST, 8080) == "10.211.0.1"
    assert one.call(REMOTE, 9000) == HOST
    assert two.call("fd00:211::2", 82) == "fd00:211::3"


async def set_up(host: Host) -> tuple[Namespace, Namespace, list[tuple[Endpoint, EndpointState]]]:
    await host.driver.create_network(DUAL)
    one, *first = await host.container(2, HTTP, network=DUAL)
    two, *second = await host.container(3, network=DUAL)
    one.serve(82, "::")
    host.remote.serve(9000)
    held = [(first[0], first[1]), (second[0], second[1])]
    await works(host, one, two)
    return one, two, held


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_a_network_is_reported_and_repaired(damage: str) -> None:
    spoil, word = DAMAGES[damage]

    async def body(host: Host) -> None:
        one, two, held = await set_up(host)
        assert list(await host.driver.audit([DUAL], held)) == []
        spoil(held[0][1].host_link)
        found = list(await host.driver.audit([DUAL], held))
        assert word in " ".join(each.text for each in found)
        assert all(each.repair for each in found)
        for each in found:
            await host.driver.repair(each)
        assert list(await host.driver.audit([DUAL], held)) == []
        await works(host, one, two)

    on_host()(body)()


@pytest.mark.parametrize("damage", ["bridge deleted", "veth deleted", "veth unplugged", "veth down", "rule deleted"])
def test_damage_to_a_network_is_repaired_at_the_next_start_of_the_daemon(damage: str) -> None:
    async def body(host: Host) -> None:
        one, two, held = await set_up(host)
        address = mac()
        await host.driver.close()
        DAMAGES[damage][0](held[0][1].host_link)
        host.driver = host.new_driver()
        await host.driver.create_network(DUAL)
        await host.driver.restore([DUAL], held)
        assert list(await host.driver.audit([DUAL], held)) == []
        assert mac() == address, "containers go on with the address that they remember of their gateway"
        await works(host, one, two)

    on_host()(body)()


@on_host()
async def test_damage_to_a_network_is_repaired_without_a_daemon(host: Host) -> None:
    """A new driver knows only the networks and endpoints that it gets as arguments of `audit`. It keeps networks and
    endpoints of running containers."""
    one, two, held = await set_up(host)
    await host.driver.close()
    run("nft", "delete", "element", *TABLE, "masquerade4", "{ 10.211.0.0/24 }")
    run("ip", "link", "del", BRIDGE)
    host.driver = host.new_driver()
    for each in await host.driver.audit([DUAL], held):
        await host.driver.repair(each)
    assert list(await host.driver.audit([DUAL], held)) == []
    await works(host, one, two)


@on_host()
async def test_endpoint_whose_network_namespace_is_gone_is_not_repaired(host: Host) -> None:
    _, _, ((endpoint, state), *_) = await set_up(host)
    run("ip", "link", "del", state.host_link)
    gone = [(msgspec.structs.replace(endpoint, netns="/proc/0/ns/net"), state)]
    (found,) = (each for each in await host.driver.audit([DUAL], gone) if each.kind == "missing")
    with pytest.raises(Exception, match="cannot connect container 020202020202"):
        await host.driver.repair(found)


@on_host()
async def test_settings_of_a_bridge_that_the_administrator_has_made_are_not_corrected(host: Host) -> None:
    """Additional addresses and another MTU are not faults; a missing address of Orlop is a fault."""
    run("ip", "link", "add", "br-admin", "mtu", "1450", "type", "bridge")
    run("ip", "addr", "add", "10.9.9.1/24", "dev", "br-admin")
    options = {"com.docker.network.bridge.name": "br-admin", "com.docker.network.driver.mtu": "1400"}
    network = msgspec.structs.replace(NETWORK, options=options)
    await host.driver.create_network(network)
    assert list(await host.driver.audit([network], [])) == []
    run("ip", "addr", "del", "10.211.0.1/24", "dev", "br-admin")
    (found,) = await host.driver.audit([network], [])
    assert found.text == "lacks the address 10.211.0.1/24"


@on_host()
async def test_missing_accept_rules_in_the_chain_docker_user_are_added(host: Host) -> None:
    run("nft", "add", "table", "ip", "filter")
    run("nft", "add", "chain", "ip", "filter", "DOCKER-USER")
    await host.driver.create_network(NETWORK)
    assert list(await host.driver.audit([NETWORK], [])) == []
    run("nft", "flush", "chain", "ip", "filter", "DOCKER-USER")
    (found,) = await host.driver.audit([NETWORK], [])
    assert found.text == f"lacks the accept rules for bridge {BRIDGE}"
    await host.driver.repair(found)
    assert list(await host.driver.audit([NETWORK], [])) == []


def check(engine: Engine, *flags: str) -> dict[str, object]:
    return dict(json.loads(engine.orlop("system", "check", "--format", "json", *flags).out))


def test_running_daemon_repairs_its_networks_on_request(fresh: Callable[..., Engine]) -> None:
    engine = fresh({"live-restore": True})
    port = free_port()
    serve = "while true; do echo well | nc -l -p 80; done"
    engine.ok("run", "-d", "--name", "web", "-p", f"{port}:80", BUSYBOX, "sh", "-c", serve)
    engine.ok("network", "create", "mine")
    engine.ok("network", "connect", "mine", "web")
    gateway = engine.inspect("web")["NetworkSettings"]["Networks"]["bridge"]["Gateway"]

    def works() -> None:
        # The kernel reports a new bridge's carrier at most once a second, and drops packets until then.
        until(lambda: engine.docker("exec", "web", "ping", "-c", "1", "-W", "1", gateway).code == 0, "the gateway answers")

    works()
    run("ip", "link", "del", engine.bridge)
    report = check(engine)
    assert not report["ok"]
    report = check(engine, "--repair")
    assert report["ok"], report
    works()
    run("ip", "link", "del", engine.bridge)
    engine.restart()
    assert check(engine) == {"findings": [], "ok": True}
    works()
    links = [link["ifname"] for link in json.loads(run("ip", "-j", "link", "show", "master", engine.bridge))]
    assert len(links) == 1
    run("ip", "link", "del", links[0])
    assert "is missing" in str(check(engine))
    assert check(engine, "--repair")["ok"]
    works()
    engine.ok("stop", "-t", "0", "web")
    assert check(engine) == {"findings": [], "ok": True}
