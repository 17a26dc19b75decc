"""Link-local addresses that a user chooses (`--link-local-ip`): on links of dockerd and of orlopd, in packets, and after
restarts."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
from tests.integration.engine import BUSYBOX, Engine
from tests.integration.parity import Side, both

pytestmark = pytest.mark.root

SLEEP = (BUSYBOX, "sleep", "600")
CHOSEN = ["169.254.7.8", "fe80::7:8"]
needs_dockerd = pytest.mark.skipif(not shutil.which("dockerd"), reason="no dockerd to compare with")


def addresses(engine: Engine, container: str, link: str = "eth0") -> set[str]:
    """The addresses of a link with their prefix lengths."""
    words = engine.ok("exec", container, "ip", "-o", "addr", "show", link).split()
    return {word for before, word in pairwise(words) if before in ("inet", "inet6")}


def reaches(engine: Engine, container: str, to: str) -> bool:
    return engine.docker("exec", container, "ping", "-c", "1", "-W", "20", to).code == 0


# --- the answers of dockerd -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def networks(sides: tuple[Side, Side]) -> Iterator[None]:
    """A network with IPv6 on both sides."""
    for number, side in enumerate(sides):
        subnets = [{"Subnet": f"fd00:7:{number}::/64"}]
        made = side.api("POST", "/networks/create", {"Name": "six", "EnableIPv6": True, "IPAM": {"Config": subnets}})
        assert made[0] == 201, made
    yield
    for side in sides:
        assert side.api("DELETE", "/networks/six")[0] == 204


def _create(side: Side, address: str, network: str) -> tuple[int, object]:
    settings = {network: {"IPAMConfig": {"LinkLocalIPs": [address]}}}
    body = {"Image": BUSYBOX, "Cmd": ["true"], "HostConfig": {"NetworkMode": network}}
    return side.api("POST", "/containers/create?name=ll", {**body, "NetworkingConfig": {"EndpointsConfig": settings}})


def _connect(side: Side, address: str, network: str) -> tuple[int, object]:
    settings = {"IPAMConfig": {"LinkLocalIPs": [address]}}
    return side.api("POST", f"/networks/{network}/connect", {"Container": "plain", "EndpointConfig": settings})


@needs_dockerd
@pytest.mark.parametrize("address", ["bogus", "", "0.0.0.0", "::", "169.254.7.8/16", "fe80::7%eth0", "169.254.7"])
@pytest.mark.parametrize("do", [_create, _connect])
def test_text_that_is_no_address_is_refused_as_by_dockerd(
    sides: tuple[Side, Side], networks: None, do: Callable[[Side, str, str], tuple[int, object]], address: str
) -> None:
    theirs, ours = both(sides, lambda side: do(side, address, "six"))
    assert ours == theirs
    assert ours[0] == 400


@needs_dockerd
@pytest.mark.parametrize("address", ["10.9.9.9", "127.0.0.1", "224.0.0.1", "2001:db8::1", "ff02::1"])
def test_address_that_is_not_link_local_is_refused_as_by_dockerd(
    sides: tuple[Side, Side], networks: None, address: str
) -> None:
    """dockerd refuses such an address when the container is started or is connected, and Orlop at the create, too."""
    theirs, ours = both(sides, lambda side: _connect(side, address, "six"))
    assert ours == theirs == (400, {"message": f"invalid link local IP address: {address}"})
    assert _create(sides[1], address, "six") == theirs


@needs_dockerd
@pytest.mark.parametrize("network", ["six", "bridge"])
def test_link_has_the_addresses_that_dockerd_gives_it(sides: tuple[Side, Side], networks: None, network: str) -> None:
    chosen = CHOSEN if network == "six" else CHOSEN[:1]

    def shown(side: Side) -> object:
        settings = {network: {"IPAMConfig": {"LinkLocalIPs": chosen}}}
        body = {"Image": BUSYBOX, "Cmd": ["sh", "-c", "ip -o addr show eth0"], "HostConfig": {"NetworkMode": network}}
        body["NetworkingConfig"] = {"EndpointsConfig": settings}
        status, made = side.api("POST", "/containers/create", {**body, "Tty": True})
        assert status == 201, made
        try:
            assert side.api("POST", f"/containers/{made['Id']}/start")[0] == 204
            assert side.api("POST", f"/containers/{made['Id']}/wait")[0] == 200
            lines = side.raw("GET", f"/containers/{made['Id']}/logs?stdout=1")[1].decode().splitlines()
            found = [line.split("eth0")[1].split("\\")[0].split() for line in lines]
            config = side.inspect(made["Id"])["NetworkSettings"]["Networks"][network]["IPAMConfig"]
        finally:
            assert side.api("DELETE", f"/containers/{made['Id']}?force=1")[0] == 204
        # dockerd lets the kernel look for another user of an IPv6 address, and so the address is tentative for a second
        words = (" ".join(word for word in line if word not in ("tentative", "flags", "02", "eth0")) for line in found)
        return {text for text in words if any(address in text for address in chosen)}, config

    theirs, ours = both(sides, shown)
    assert ours == theirs
    assert len(ours[0]) == len(chosen)
    assert ours[1] == {"LinkLocalIPs": chosen}


# --- in the daemon ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("driver", ["bridge", "macvlan"])
def test_containers_reach_each_other_at_link_local_addresses(engine: Engine, name: str, driver: str) -> None:
    engine.ok("network", "create", "-d", driver, "--ipv6", "--subnet", f"fd00:9:{len(driver)}::/64", f"n-{name}")
    try:
        flags = ("--link-local-ip", "169.254.1.1", "--link-local-ip", "fe80::1:1")
        engine.ok("run", "-d", "--name", name, "--network", f"n-{name}", *flags, *SLEEP)
        engine.ok("run", "-d", "--name", f"{name}-2", *SLEEP)
        assert engine.orlop("network", "connect", "--link-local-ip", "169.254.1.2", f"n-{name}", f"{name}-2").code == 0
        assert addresses(engine, name) >= {"169.254.1.1/16", "fe80::1:1/64"}
        assert "169.254.1.2/16" in addresses(engine, f"{name}-2", "eth1")
        assert reaches(engine, f"{name}-2", "169.254.1.1") and reaches(engine, name, "169.254.1.2")
        assert reaches(engine, f"{name}-2", "fe80::1:1%eth1")
        assert "169.254" not in engine.ok("exec", f"{name}-2", "nslookup", name)

        engine.ok("restart", "-t", "0", name)
        assert addresses(engine, name) >= {"169.254.1.1/16", "fe80::1:1/64"}
        engine.ok("network", "disconnect", f"n-{name}", f"{name}-2")
        assert engine.docker("exec", f"{name}-2", "ip", "addr", "show", "eth1").code != 0
        assert "n-" not in str(engine.inspect(f"{name}-2")["NetworkSettings"]["Networks"])
    finally:
        engine.docker("rm", "-f", name, f"{name}-2")
        engine.ok("network", "rm", f"n-{name}")


def test_link_local_address_stays_while_the_daemon_is_replaced(fresh: Callable[..., Engine]) -> None:
    engine = fresh({"live-restore": True})
    engine.ok("network", "create", "nn")
    engine.ok("run", "-d", "--name", "one", "--network", "nn", "--link-local-ip", "169.254.1.1", *SLEEP)
    engine.ok("run", "-d", "--name", "two", "--network", "nn", "--link-local-ip", "169.254.1.2", *SLEEP)
    engine.kill()
    engine.start()
    assert reaches(engine, "two", "169.254.1.1")
    assert "169.254.1.1/16" in addresses(engine, "one")
    assert engine.inspect("one")["NetworkSettings"]["Networks"]["nn"]["IPAMConfig"] == {"LinkLocalIPs": ["169.254.1.1"]}
    engine.docker("rm", "-f", "one", "two", check=0)
    engine.ok("network", "rm", "nn")


@pytest.mark.parametrize("network", ["host", "none"])
def test_network_without_own_links_refuses_link_local_addresses(engine: Engine, name: str, network: str) -> None:
    done = engine.docker("run", "--name", name, "--network", network, "--link-local-ip", "169.254.1.1", BUSYBOX, "true")
    assert done.code == 125
    assert "does not support link-local addresses" in done.err


def test_network_without_ipv6_refuses_a_link_local_ipv6_address(engine: Engine, name: str) -> None:
    done = engine.docker("run", "--name", name, "--link-local-ip", "fe80::1", BUSYBOX, "true")
    assert done.code == 125
    assert "network bridge has no IPv6, which a link-local IPv6 address needs" in done.err


def test_same_link_local_address_twice_is_refused(engine: Engine, name: str) -> None:
    flags = ("--link-local-ip", "169.254.1.1", "--link-local-ip", "169.254.1.1")
    done = engine.docker("run", "--name", name, *flags, BUSYBOX, "true")
    assert done.code == 125
    assert "a link-local IP address occurs twice" in done.err
