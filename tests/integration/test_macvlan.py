"""Networks of the drivers `macvlan` and `ipvlan` in the daemon: names, several subnets, containers that are connected and
disconnected, a daemon that is replaced while packets flow, and the answers of dockerd."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from tests.integration.engine import BUSYBOX, Engine, free_subnets
from tests.integration.parity import Side, differences
from tests.integration.test_dns import address, lookup

from orlop_sdk import linux

pytestmark = pytest.mark.root

SLEEP = (BUSYBOX, "sleep", "600")
needs_dockerd = pytest.mark.skipif(not shutil.which("dockerd"), reason="no dockerd to compare with")


class Remote(NamedTuple):
    """A link of the host, to be used as parent, and the namespace of another host at its other end."""

    parent: str
    namespace: int
    subnet: str

    def run(self, *argv: str) -> str:
        with linux.in_network_namespace(self.namespace):
            return subprocess.run(argv, check=True, capture_output=True, text=True).stdout

    def reaches(self, to: str, count: int = 1, interval: str = "1") -> bool:
        """Whether all echoes are answered, in time."""
        with linux.in_network_namespace(self.namespace):
            argv = ["busybox", "ping", "-c", str(count), "-i", interval, "-W", "20", to]
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
        return f"{count} packets received" in done.stdout


@pytest.fixture
def remote() -> Iterator[Remote]:
    namespace = linux.new_network_namespace()
    parent = f"otm{os.getpid()}"
    (subnet,) = free_subnets(1)
    try:
        path = f"/proc/{os.getpid()}/fd/{namespace}"
        subprocess.run(["ip", "link", "add", parent, "type", "veth", "peer", "name", "peer0", "netns", path], check=True)
        subprocess.run(["ip", "link", "set", parent, "up"], check=True)
        found = Remote(parent, namespace, subnet)
        for gateway in (f"{subnet}.1", f"{subnet}.250"):  # the first address is the source address of its packets
            found.run("ip", "address", "add", f"{gateway}/24", "dev", "peer0")
        found.run("ip", "link", "set", "peer0", "up")
        yield found
    finally:
        subprocess.run(["ip", "link", "del", parent], check=True)
        os.close(namespace)


@pytest.fixture
def network(engine: Engine, remote: Remote, name: str) -> Iterator[str]:
    made = f"mv-{name}"
    # Not by the docker client, which sends subnets in any order: containers get addresses of the first subnet
    subnets = [
        {"Subnet": f"{remote.subnet}.0/25"},
        {"Subnet": f"{remote.subnet}.128/25", "Gateway": f"{remote.subnet}.250"},
    ]
    body = {"Name": made, "Driver": "macvlan", "Options": {"parent": remote.parent}, "IPAM": {"Config": subnets}}
    status, answer = engine.api("POST", "/networks/create", body)
    assert status == 201, answer
    yield made
    remove(engine, made)


def remove(engine: Engine, network: str) -> None:
    if left := engine.docker("ps", "-aq", "--filter", f"network={network}").out.split():
        engine.docker("rm", "-f", *left)
    engine.ok("network", "rm", network)


def test_containers_of_macvlan_networks_have_their_own_names_and_addresses(
    engine: Engine, network: str, remote: Remote
) -> None:
    static = f"{remote.subnet}.130"
    engine.ok("run", "-d", "--name", "one", "--network", network, *SLEEP)
    flags = ("--ip", static, "--mac-address", "02:00:00:00:00:07", "--network-alias", "service")
    engine.ok("run", "-d", "--name", "two", "--network", network, *flags, *SLEEP)
    assert address(engine, "one", network) == f"{remote.subnet}.2" and address(engine, "two", network) == static
    assert lookup(engine, "one", "two") == lookup(engine, "one", "service") == [static]
    assert lookup(engine, "two", "one") == [f"{remote.subnet}.2"]
    assert remote.reaches(static) and remote.reaches(f"{remote.subnet}.2")
    assert "02:00:00:00:00:07" in remote.run("ip", "neigh", "show", static)
    assert f"default via {remote.subnet}.250" in engine.ok("exec", "two", "ip", "route")
    taken = engine.docker("run", "--rm", "--network", network, "--ip", static, BUSYBOX, "true")
    assert taken.code == 125 and "Address already in use" in taken.err
    engine.ok("rm", "-f", "two")
    assert not lookup(engine, "one", "two")


def test_running_container_can_be_connected_and_disconnected(engine: Engine, network: str, remote: Remote) -> None:
    engine.ok("run", "-d", "--name", "one", *SLEEP)
    engine.ok("network", "connect", "--ip", f"{remote.subnet}.9", network, "one")
    assert remote.reaches(f"{remote.subnet}.9")
    assert "eth1" in engine.ok("exec", "one", "ls", "/sys/class/net").split()
    engine.ok("network", "disconnect", network, "one")
    assert "eth1" not in engine.ok("exec", "one", "ls", "/sys/class/net").split()
    engine.ok("network", "connect", network, "one")
    engine.ok("network", "disconnect", "bridge", "one")
    assert f"via {remote.subnet}.1 dev eth1" in engine.ok("exec", "one", "ip", "route")
    engine.ok("restart", "-t", "0", "one")
    assert set(engine.inspect("one")["NetworkSettings"]["Networks"]) == {network}
    assert remote.reaches(engine.address("one", network))


def test_macvlan_network_without_a_parent_interface_is_internal(engine: Engine, name: str) -> None:
    made = f"alone-{name}"
    engine.ok("network", "create", "-d", "macvlan", made)
    try:
        assert engine.ok("network", "inspect", "-f", "{{.Internal}}", made) == "true"
        engine.ok("run", "-d", "--name", "one", "--network", made, *SLEEP)
        engine.ok("run", "-d", "--name", "two", "--network", made, *SLEEP)
        assert engine.docker("exec", "one", "ping", "-c", "1", "-W", "20", "two").code == 0
        assert "default" not in engine.ok("exec", "one", "ip", "route")
        engine.ok("network", "connect", "bridge", "one")
        assert "default" in engine.ok("exec", "one", "ip", "route")
    finally:
        remove(engine, made)


def test_macvlan_network_without_ipam_gives_containers_an_interface_without_address(
    engine: Engine, remote: Remote, name: str
) -> None:
    """With the IPAM driver `null`, programs of the container set the addresses (by DHCP, for example)."""
    made = f"null-{name}"
    engine.ok("network", "create", "-d", "macvlan", "-o", f"parent={remote.parent}", "--ipam-driver", "null", made)
    try:
        assert engine.ok("network", "inspect", "-f", "{{.IPAM.Driver}} {{len .IPAM.Config}}", made) == "null 0"
        engine.ok("run", "-d", "--name", "one", "--network", made, "--cap-add", "NET_ADMIN", *SLEEP)
        assert "inet " not in engine.ok("exec", "one", "ip", "addr", "show", "eth0")
        engine.ok("exec", "one", "ip", "addr", "add", f"{remote.subnet}.7/24", "dev", "eth0")
        assert remote.reaches(f"{remote.subnet}.7")
        for flags, text in ((("--subnet", "10.9.0.0/24"), "null ipam driver does not handle"), ((), "ipv4 pool is empty")):
            refused = engine.docker("network", "create", "--ipam-driver", "null", *flags, f"{made}-x")
            assert refused.code == 1 and text in refused.err
    finally:
        remove(engine, made)


def test_no_packet_is_lost_while_the_daemon_is_replaced(fresh: Callable[..., Engine], remote: Remote) -> None:
    engine = fresh({"live-restore": True})
    subnet = ("--subnet", f"{remote.subnet}.0/24")
    engine.ok("network", "create", "-d", "macvlan", "-o", f"parent={remote.parent}", *subnet, "mv")
    engine.ok("run", "-d", "--name", "one", "--network", "mv", *SLEEP)
    engine.ok("run", "-d", "--name", "two", "--network", "mv", *SLEEP)
    one, answered = engine.address("one", "mv"), []
    thread = threading.Thread(target=lambda: answered.append(remote.reaches(one, 300, "0.01")))
    thread.start()
    engine.kill()
    engine.start()
    thread.join()
    assert answered == [True]
    assert remote.reaches(one) and lookup(engine, "one", "two") == [engine.address("two", "mv")]
    engine.until_sound()
    engine.kill()
    engine.start()
    engine.ok("network", "disconnect", "mv", "two")
    assert lookup(engine, "one", "two") == []
    engine.ok("network", "connect", "mv", "two")
    engine.ok("rm", "-f", "one", "two")
    engine.ok("network", "rm", "mv")


# --- compared with dockerd ------------------------------------------------------------------------------------------


def create(side: Side, name: str, driver: str, options: dict[str, str], ipam: Any = None, **more: Any) -> tuple[int, Any]:
    body = {"Name": name, "Driver": driver, "Options": options, "IPAM": {"Config": ipam or []}, **more}
    return side.api("POST", "/networks/create", body)


@needs_dockerd
@pytest.mark.parametrize(
    ("driver", "options"),
    [
        ("macvlan", {"parent": "lo"}),
        ("macvlan", {"parent": "nosuch"}),
        ("macvlan", {"parent": "nosuch.5"}),
        ("macvlan", {"parent": "PARENT.x"}),
        ("macvlan", {"parent": "PARENT.5.6"}),
        ("macvlan", {"parent": "PARENT.0"}),
        ("macvlan", {"parent": "PARENT.5000"}),
        ("macvlan", {"parent": "PARENT", "macvlan_mode": "x"}),
        ("ipvlan", {"parent": "lo"}),
        ("ipvlan", {"parent": "nosuch"}),
        ("ipvlan", {"parent": "PARENT", "ipvlan_mode": "l4"}),
        ("ipvlan", {"parent": "PARENT", "ipvlan_flag": "x"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value.values()),
)
def test_invalid_network_options_are_refused_as_in_dockerd(
    sides: tuple[Side, Side], remote: Remote, driver: str, options: dict[str, str]
) -> None:
    """dockerd 26.1 answers with the status 500. Orlop answers with 400, the status for an invalid request."""
    given = {key: value.replace("PARENT", remote.parent) for key, value in options.items()}
    (_, theirs), (status, ours) = (create(side, "refused", driver, given) for side in sides)
    assert theirs["message"] and ours == theirs and status == 400


@needs_dockerd
def test_inspect_of_a_network_shows_the_same_as_dockerd(sides: tuple[Side, Side], remote: Remote) -> None:
    ipam = [
        {"Subnet": f"{remote.subnet}.0/25", "AuxiliaryAddresses": {"a": f"{remote.subnet}.2"}},
        {"Subnet": f"{remote.subnet}.128/25", "Gateway": f"{remote.subnet}.250"},
        {"Subnet": "fd00:7:7::/64"},
    ]
    shown = []
    for side in sides:
        made = "parity-mv"
        status, answer = create(side, made, "macvlan", {"parent": remote.parent}, ipam, EnableIPv6=True)
        assert status == 201, (side.name, answer)
        side.names[answer["Id"]] = "<mv>"
        try:
            endpoint = {"IPAMConfig": {"IPv4Address": f"{remote.subnet}.131", "IPv6Address": "fd00:7:7::9"}}
            body = {"Image": BUSYBOX, "Cmd": ["sleep", "600"], "HostConfig": {"NetworkMode": made}}
            ports = {"80/tcp": [{"HostPort": "8080"}]}
            for name, networks, host in (
                ("mv-first", {}, {"NetworkMode": made, "PortBindings": ports}),
                ("mv-static", {made: endpoint}, {"NetworkMode": made}),
            ):
                config = {**body, "HostConfig": host, "NetworkingConfig": {"EndpointsConfig": networks}}
                status, created = side.api("POST", f"/containers/create?name={name}", config)
                assert status == 201, (side.name, created)
                side.names[created["Id"]] = f"<{name}>"
                assert side.api("POST", f"/containers/{name}/start")[0] == 204
            networks = {name: side.inspect(name)["NetworkSettings"]["Networks"][made] for name in ("mv-first", "mv-static")}
            for each in networks.values():
                each.pop("GwPriority", None)  # new in API 1.48
                each["DNSNames"] = sorted(each["DNSNames"])
            found = side.api("GET", f"/networks/{made}")[1]
            found.pop("EnableIPv4", None)  # new in API 1.48
            for config, asked in zip(found["IPAM"]["Config"], ipam, strict=True):
                if "Gateway" not in asked:  # dockerd 26.1 does not show a gateway that it has chosen
                    config.pop("Gateway", None)
            ports_shown = side.inspect("mv-first")["NetworkSettings"]["Ports"]
            shown.append(side.plain({"network": found, "containers": networks, "ports": ports_shown}))
        finally:
            for name in ("mv-first", "mv-static"):
                side.api("DELETE", f"/containers/{name}?force=1")
            assert side.api("DELETE", f"/networks/{made}")[0] == 204
    assert list(differences(*shown)) == []


@needs_dockerd
def test_configuration_only_networks_behave_as_in_dockerd(sides: tuple[Side, Side], remote: Remote) -> None:
    """A network that is made from `parity-cfg` gets the settings of `parity-cfg`."""
    shown = []
    ipam = {"Config": [{"Subnet": f"{remote.subnet}.0/24"}]}
    template = {"Name": "parity-cfg", "ConfigOnly": True, "Options": {"parent": remote.parent}, "IPAM": ipam}
    source = {"Network": "parity-cfg"}
    requests: list[tuple[str, str, Any]] = [
        ("POST", "/networks/create", template),
        ("POST", "/networks/create", {"Name": "x", "ConfigOnly": True, "Internal": True}),
        ("POST", "/networks/create", {"Name": "x", "ConfigOnly": True, "ConfigFrom": source}),
        ("POST", "/networks/create", {"Name": "x", "ConfigFrom": {"Network": "nosuch"}}),
        ("POST", "/networks/create", {"Name": "x", "ConfigFrom": {"Network": "bridge"}}),
        ("POST", "/networks/create", {"Name": "x", "ConfigFrom": source, "Options": {"a": "b"}}),
        ("POST", "/networks/create", {"Name": "x", "ConfigFrom": source, "IPAM": ipam}),
        ("POST", "/networks/create", {"Name": "x", "ConfigFrom": source, "Labels": {"a": "b"}}),
        ("POST", "/networks/create", {"Name": "x", "ConfigFrom": source, "EnableIPv6": True}),
        ("POST", "/networks/create", {"Name": "parity-made", "Driver": "macvlan", "ConfigFrom": source}),
        ("GET", "/networks/parity-cfg", None),
        ("GET", "/networks/parity-made", None),
        ("POST", "/networks/parity-cfg/connect", {"Container": "plain"}),
        ("DELETE", "/networks/parity-cfg", None),
        ("DELETE", "/networks/parity-made", None),
        ("DELETE", "/networks/parity-cfg", None),
    ]
    for side in sides:
        answers = []
        for method, path, body in requests:
            status, answer = side.api(method, path, body)
            if isinstance(answer, dict):
                answer.pop("EnableIPv4", None)  # new in API 1.48
                for config in answer.get("IPAM", {}).get("Config", ()):
                    config.pop("Gateway", None)  # dockerd 26.1 does not show a gateway that it has chosen
            answers.append((f"{method} {path}", status, side.plain(answer)))
        shown.append(answers)
    assert [pair for pair in zip(*shown, strict=True) if pair[0] != pair[1]] == []
