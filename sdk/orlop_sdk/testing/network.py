"""Conformance suite for network drivers, and a verified fake.

class TestMine(NetworkSuite):
    @pytest.fixture
    def factory(self):
        return MyDriver                     # NetworkContext -> NetworkDriver

    real = True                             # the driver makes links and rules; override `host` and `look` as well

    def host(self, main):                   # run the test in a new network namespace
        in_own_network(main)

    def look(self, netns): ...              # the addresses in a container's namespace

For a driver that creates links or rules, set `real`, and override `host` and `look`. The driver then changes only a network
namespace that ends with the test. Mark these tests `root`. For other drivers, override only `factory`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import msgspec
import pytest
import trio

from orlop_sdk import (
    Address,
    Conflict,
    Drift,
    DriverError,
    Endpoint,
    EndpointState,
    NetworkAudit,
    NetworkCapabilities,
    NetworkContext,
    NetworkDriver,
    NetworkSpec,
    PublishedPort,
    Subnet,
    linux,
)

__all__ = ["FakeNetwork", "NetworkSuite", "in_own_network", "own_namespace"]

Factory = Callable[[NetworkContext], NetworkDriver]
Main = Callable[[], Awaitable[None]]


class FakeNetwork:
    """A network driver for tests of the daemon. It makes no networks, and only records networks, endpoints and ports. `log`
    lists the calls as (method, subject). `fail` maps a method to the error that its next call raises. `shared` is a dict of
    published ports, for tests in which several drivers use the ports of one host. `own_addresses` are addresses that the
    fake gives to endpoints, one for each `attach`, as a driver with its own address management does."""

    def __init__(
        self,
        context: NetworkContext | None = None,
        *,
        capabilities: NetworkCapabilities | None = None,
        shared: dict[tuple[str, str, int], str] | None = None,
        own_addresses: Iterable[Address] | None = None,
    ) -> None:
        kernels = own_addresses is None
        self._capabilities = capabilities or NetworkCapabilities(addresses=kernels, publishes=kernels, link_local=kernels)
        self._own_addresses = iter(own_addresses or ())
        self.networks: dict[str, NetworkSpec] = {}
        self.endpoints: dict[str, Endpoint] = {}
        self.ports: dict[tuple[str, str, int], str] = {} if shared is None else shared
        self.log: list[tuple[str, str]] = []
        self.fail: dict[str, Exception] = {}

    @property
    def capabilities(self) -> NetworkCapabilities:
        return self._capabilities

    def _note(self, method: str, subject: str) -> None:
        self.log.append((method, subject))
        error = self.fail.pop(method, None)
        if error is not None:
            raise error

    async def create_network(self, network: NetworkSpec) -> None:
        await trio.lowlevel.checkpoint()
        self._note("create_network", network.name)
        self.networks[network.id] = network

    async def delete_network(self, network: NetworkSpec) -> None:
        await trio.lowlevel.checkpoint()
        self._note("delete_network", network.name)
        self.networks.pop(network.id, None)

    async def attach(self, endpoint: Endpoint) -> EndpointState:
        await trio.lowlevel.checkpoint()
        self._note("attach", endpoint.container_id)
        if endpoint.network.id not in self.networks:
            raise DriverError(
                f"cannot connect container {endpoint.container_id[:12]}: network {endpoint.network.name} does not exist"
            )
        if not os.path.exists(endpoint.netns):
            raise DriverError(f"cannot connect container {endpoint.container_id[:12]}: no network namespace")
        self._publish(endpoint)
        own = tuple(islice(self._own_addresses, 1))
        return EndpointState(mac=endpoint.mac or "02:00:00:00:00:01", host_link=f"fake{endpoint.id[:7]}", addresses=own)

    def _publish(self, endpoint: Endpoint) -> None:
        keys = self._keys(endpoint)
        for key in keys:
            if self.ports.get(key, endpoint.id) != endpoint.id:
                raise Conflict(f"cannot publish port {key[2]}: port is already allocated")
        for key in [key for key, holder in self.ports.items() if holder == endpoint.id]:
            del self.ports[key]
        self.ports.update(dict.fromkeys(keys, endpoint.id))
        self.endpoints[endpoint.id] = endpoint

    async def update(self, endpoint: Endpoint, state: EndpointState) -> None:
        await trio.lowlevel.checkpoint()
        self._note("update", endpoint.network.name)
        self._publish(endpoint)

    @staticmethod
    def _keys(endpoint: Endpoint) -> list[tuple[str, str, int]]:
        return [(port.protocol, port.host_ip, port.host_port) for port in endpoint.ports]

    async def detach(self, endpoint: Endpoint, state: EndpointState) -> None:
        await trio.lowlevel.checkpoint()
        self._note("detach", endpoint.container_id)
        self.endpoints.pop(endpoint.id, None)
        for key in self._keys(endpoint):
            if self.ports.get(key) == endpoint.id:
                del self.ports[key]

    async def restore(self, networks: Sequence[NetworkSpec], endpoints: Sequence[tuple[Endpoint, EndpointState]]) -> None:
        await trio.lowlevel.checkpoint()
        self._note("restore", str(len(endpoints)))
        self.networks = {network.id: network for network in networks}
        self.endpoints = {endpoint.id: endpoint for endpoint, _ in endpoints}
        living = {key: endpoint.id for endpoint, _ in endpoints for key in self._keys(endpoint)}
        self.ports.clear()
        self.ports.update(living)

    async def audit(
        self, networks: Sequence[NetworkSpec], endpoints: Sequence[tuple[Endpoint, EndpointState]]
    ) -> Sequence[Drift]:
        await trio.lowlevel.checkpoint()
        wanted = {network.id for network in networks} | {endpoint.id for endpoint, _ in endpoints}
        held = self.networks.keys() | self.endpoints.keys()
        strays = [Drift("stray", f"fake {ident[:12]}", "is of nobody", "forget it", ident) for ident in held - wanted]
        return strays + [Drift("missing", f"fake {ident[:12]}", "is not there", "", ident) for ident in wanted - held]

    async def repair(self, found: Drift) -> None:
        await trio.lowlevel.checkpoint()
        self.networks.pop(found.id, None)
        gone = self.endpoints.pop(found.id, None)
        for key in self._keys(gone) if gone else ():
            self.ports.pop(key, None)

    async def dump(self) -> str:
        await trio.lowlevel.checkpoint()
        return "".join(f"endpoint {ident}\n" for ident in self.endpoints)

    async def close(self) -> None:
        pass


# --- hosts and namespaces -------------------------------------------------------------------------------------------


def in_own_network(main: Main) -> None:
    """Run `main` under trio in a thread that has a new network namespace (loopback down). The test uses this namespace as
    the host's network namespace. Threads that the driver starts are in the same namespace. The namespace ends with the
    thread."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            linux.unshare(linux.CLONE_NEWNET)
            trio.run(main)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, name="test-host")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


@contextmanager
def own_namespace() -> Iterator[str]:
    """The path of a new network namespace, used as a container's namespace."""
    fd = linux.new_network_namespace()
    try:
        yield f"/proc/{os.getpid()}/fd/{fd}"
    finally:
        os.close(fd)


@contextmanager
def _this_namespace() -> Iterator[str]:
    """The path of the calling thread's network namespace, for drivers that do not enter the container's namespace. In
    `in_own_network`, the network namespace of the thread is not the one of the process."""
    yield f"/proc/self/task/{threading.get_native_id()}/ns/net"


# --- the suite ------------------------------------------------------------------------------------------------------


class NetworkSuite:
    """Tests for every network driver. Override `factory`; see the module's docstring for drivers that change the machine."""

    real = False
    """Whether the driver makes real links and rules. If true, each container of a test has a new network namespace."""

    @pytest.fixture
    def factory(self) -> Factory:
        raise TypeError("override the fixture `factory`")

    def host(self, main: Main) -> None:
        """Run the test. Override this method to run the test in a new network namespace instead of the host's."""
        trio.run(main)

    def namespace(self) -> Any:
        return own_namespace() if self.real else _this_namespace()

    def look(self, netns: str) -> set[str] | None:
        """The addresses ("10.1.0.2/24") of the links that are up in a network namespace; None if the driver makes no
        addresses visible there."""
        return None

    def context(self, instance: str = "test") -> NetworkContext:
        return NetworkContext(instance=instance, default_bridge=f"orlt{instance[:8]}", state_dir="/nonexistent")

    def network(self, ident: str = "a", subnet: str = "10.211.0") -> NetworkSpec:
        return NetworkSpec(id=ident * 64, name=f"net-{ident}", subnets=(Subnet(f"{subnet}.0/24", f"{subnet}.1"),))

    def endpoint(self, network: NetworkSpec, netns: str, number: int = 2, *ports: PublishedPort) -> Endpoint:
        prefix = network.subnets[0].subnet.rpartition(".")[0]
        return Endpoint(
            id=f"{number:02x}" * 32,
            network=network,
            container_id=f"{number:02x}" * 32,
            netns=netns,
            mac=f"02:42:00:00:00:{number:02x}",
            addresses=(Address(f"{prefix}.{number}/24", f"{prefix}.1"),),
            ports=ports,
        )

    def _with_driver(
        self, factory: Factory, body: Callable[[NetworkDriver], Awaitable[None]], instance: str = "test"
    ) -> None:
        async def main() -> None:
            driver = factory(self.context(instance))
            try:
                await body(driver)
            finally:
                await driver.close()

        self.host(main)

    def test_is_a_driver(self, factory: Factory) -> None:
        async def body(driver: NetworkDriver) -> None:
            assert isinstance(driver, NetworkDriver)
            assert driver.capabilities.sandbox in ("new", "host")
            assert driver.capabilities.addresses or not driver.capabilities.publishes

        self._with_driver(factory, body)

    def test_network_calls_can_be_repeated(self, factory: Factory) -> None:
        async def body(driver: NetworkDriver) -> None:
            network = self.network()
            await driver.create_network(network)
            await driver.create_network(network)
            await driver.delete_network(network)
            await driver.delete_network(network)

        self._with_driver(factory, body)

    def test_endpoint_is_attached_and_detached(self, factory: Factory) -> None:
        async def body(driver: NetworkDriver) -> None:
            network = self.network()
            await driver.create_network(network)
            with self.namespace() as netns:
                endpoint = self.endpoint(network, netns)
                state = await driver.attach(endpoint)
                seen = self.look(netns)
                if seen is not None:
                    given = endpoint.addresses if driver.capabilities.addresses else state.addresses
                    assert seen == {"127.0.0.1/8", *(each.address for each in given)}
                if driver.capabilities.addresses:
                    assert state.mac == endpoint.mac
                await driver.detach(endpoint, state)
                await driver.detach(endpoint, state)
                seen = self.look(netns)
                if seen is not None:
                    assert seen == {"127.0.0.1/8"}
            await driver.delete_network(network)

        self._with_driver(factory, body)

    def test_link_local_addresses_are_added(self, factory: Factory) -> None:
        async def body(driver: NetworkDriver) -> None:
            if not driver.capabilities.link_local:
                return  # the daemon then refuses such addresses
            network = self.network()
            await driver.create_network(network)
            with self.namespace() as netns:
                chosen = ("169.254.1.1/16", "169.254.1.2/16")
                endpoint = msgspec.structs.replace(self.endpoint(network, netns), link_local=chosen)
                state = await driver.attach(endpoint)
                seen = self.look(netns)
                if seen is not None:
                    given = endpoint.addresses if driver.capabilities.addresses else state.addresses
                    assert seen == {"127.0.0.1/8", *(each.address for each in given), *chosen}
                await driver.detach(endpoint, state)
            await driver.delete_network(network)

        self._with_driver(factory, body)

    def test_detach_after_the_container_ended_frees_its_ports(self, factory: Factory) -> None:
        async def body(driver: NetworkDriver) -> None:
            network = self.network()
            await driver.create_network(network)
            with self.namespace() as netns:
                endpoint = self.endpoint(network, netns, 2, PublishedPort("tcp", "0.0.0.0", 8080, 80))
                state = await driver.attach(endpoint)
            await driver.detach(msgspec.structs.replace(endpoint, netns=""), state)
            with self.namespace() as netns:  # a new endpoint can get the same address and port immediately
                again = msgspec.structs.replace(endpoint, id="f" * 64, netns=netns)
                state = await driver.attach(again)
                await driver.detach(again, state)
            await driver.delete_network(network)

        self._with_driver(factory, body)

    def test_attach_can_be_repeated_after_a_crash(self, factory: Factory) -> None:
        async def body(driver: NetworkDriver) -> None:
            network = self.network()
            await driver.create_network(network)
            with self.namespace() as netns:
                endpoint = self.endpoint(network, netns, 2, PublishedPort("tcp", "0.0.0.0", 8080, 80))
                await driver.attach(endpoint)
                state = await driver.attach(endpoint)
                await driver.detach(endpoint, state)
            await driver.delete_network(network)

        self._with_driver(factory, body)

    def test_taken_port_is_a_conflict_and_leaves_nothing(self, factory: Factory) -> None:
        async def body(driver: NetworkDriver) -> None:
            if not driver.capabilities.publishes:
                return
            network = self.network()
            await driver.create_network(network)
            port = PublishedPort("tcp", "0.0.0.0", 8080, 80)
            other = PublishedPort("tcp", "0.0.0.0", 8081, 80)
            with self.namespace() as first, self.namespace() as second, self.namespace() as third:
                winner = self.endpoint(network, first, 2, port)
                won = await driver.attach(winner)
                loser = self.endpoint(network, second, 3, other, port)
                with pytest.raises(Conflict):
                    await driver.attach(loser)
                if self.look(second) is not None:
                    assert f"{loser.addresses[0].address}" not in (self.look(second) or set())
                # The failed `attach` must not have left the port of `other` published.
                third_endpoint = self.endpoint(network, third, 4, other)
                state = await driver.attach(third_endpoint)
                await driver.detach(third_endpoint, state)
                await driver.detach(winner, won)
                state = await driver.attach(self.endpoint(network, second, 3, other, port))
                await driver.detach(loser, state)
            await driver.delete_network(network)

        self._with_driver(factory, body)

    def test_detach_leaves_other_endpoints(self, factory: Factory) -> None:
        async def body(driver: NetworkDriver) -> None:
            network = self.network()
            await driver.create_network(network)
            with self.namespace() as first, self.namespace() as second, self.namespace() as third:
                port, other = PublishedPort("tcp", "0.0.0.0", 8080, 80), PublishedPort("tcp", "0.0.0.0", 8081, 80)
                gone, stays = self.endpoint(network, first, 2, port), self.endpoint(network, second, 3, other)
                left, kept = await driver.attach(gone), await driver.attach(stays)
                before = self.look(second)
                await driver.detach(gone, left)
                assert self.look(second) == before, "detach(): another endpoint has lost its addresses"
                if driver.capabilities.publishes:
                    with pytest.raises(Conflict):
                        await driver.attach(self.endpoint(network, third, 4, other))
                again = self.endpoint(network, third, 5, port)
                await driver.detach(again, await driver.attach(again))
                await driver.detach(stays, kept)
            await driver.delete_network(network)

        self._with_driver(factory, body)

    def test_update_moves_ports_and_default_route(self, factory: Factory) -> None:
        """`update` moves the ports and the default route of a running container from one network to another."""

        async def body(driver: NetworkDriver) -> None:
            one, two = self.network("a", "10.211.0"), self.network("b", "10.212.0")
            port = PublishedPort("tcp", "0.0.0.0", 8080, 80)
            for network in (one, two):
                await driver.create_network(network)
            with self.namespace() as netns, self.namespace() as elsewhere:
                ports = (port,) if driver.capabilities.publishes else ()
                first = self.endpoint(one, netns, 2, *ports)
                second = msgspec.structs.replace(self.endpoint(two, netns, 3), ifname="eth1", default_route=False)
                states = [await driver.attach(first), await driver.attach(second)]
                left = msgspec.structs.replace(first, ports=(), default_route=False)
                gateway = msgspec.structs.replace(second, ports=ports, default_route=True)
                if ports:
                    with pytest.raises(Conflict):
                        await driver.update(gateway, states[1])
                for _ in range(2):
                    await driver.update(left, states[0])
                    await driver.update(gateway, states[1])
                    if ports:
                        with pytest.raises(Conflict):
                            await driver.attach(self.endpoint(one, elsewhere, 4, port))
                await driver.detach(left, states[0])
                seen = self.look(netns)
                if seen is not None and driver.capabilities.addresses:
                    assert seen == {"127.0.0.1/8", second.addresses[0].address}
                await driver.detach(gateway, states[1])
                other = self.endpoint(one, elsewhere, 4, *ports)
                await driver.detach(other, await driver.attach(other))
            for network in (one, two):
                await driver.delete_network(network)

        self._with_driver(factory, body)

    def test_ports_differ_by_protocol_and_address(self, factory: Factory) -> None:
        async def body(driver: NetworkDriver) -> None:
            if not driver.capabilities.publishes:
                return
            network = self.network()
            await driver.create_network(network)
            with self.namespace() as first, self.namespace() as second:
                one = self.endpoint(network, first, 2, PublishedPort("tcp", "192.0.2.1", 8080, 80))
                two = self.endpoint(
                    network,
                    second,
                    3,
                    PublishedPort("udp", "192.0.2.1", 8080, 80),
                    PublishedPort("tcp", "192.0.2.2", 8080, 80),
                )
                states = [await driver.attach(one), await driver.attach(two)]
                for endpoint, state in zip((one, two), states, strict=True):
                    await driver.detach(endpoint, state)
            await driver.delete_network(network)

        self._with_driver(factory, body)

    def test_audit_reports_stray_and_missing_objects(self, factory: Factory) -> None:
        """`audit` reports stray and missing objects, and `repair` removes strays (drivers with `NetworkAudit`)."""

        async def body(driver: NetworkDriver) -> None:
            if not isinstance(driver, NetworkAudit):
                return
            network = self.network()
            assert list(await driver.audit([], [])) == []
            await driver.create_network(network)
            with self.namespace() as netns:
                endpoint = self.endpoint(network, netns, 2, PublishedPort("tcp", "0.0.0.0", 8080, 80))
                held = [(endpoint, await driver.attach(endpoint))]
                assert list(await driver.audit([network], held)) == []
                assert isinstance(await driver.dump(), str)
                strays = list(await driver.audit([network], []))
                assert strays, "audit(): an endpoint that the daemon does not know"
                assert {found.kind for found in strays} == {"stray"}
                for found in strays:
                    assert found.repair, "an endpoint of nobody's can be removed"
                    await driver.repair(found)
                    await driver.repair(found)
                assert list(await driver.audit([network], [])) == []
                missing = list(await driver.audit([network], held))
                assert missing, "audit(): an endpoint that is gone"
                assert {found.kind for found in missing} == {"missing"}
                await driver.detach(*held[0])
            await driver.delete_network(network)
            assert list(await driver.audit([], [])) == []

        self._with_driver(factory, body)

    def test_restore_keeps_running_endpoints_and_removes_others(self, factory: Factory) -> None:
        async def main() -> None:
            driver = factory(self.context())
            network = self.network()
            await driver.create_network(network)
            with self.namespace() as alive, self.namespace() as dead, self.namespace() as new:
                living = self.endpoint(network, alive, 2, PublishedPort("tcp", "0.0.0.0", 8080, 80))
                gone = self.endpoint(network, dead, 3, PublishedPort("tcp", "0.0.0.0", 8081, 80))
                state = await driver.attach(living)
                await driver.attach(gone)
                await driver.close()

                driver = factory(self.context())
                await driver.create_network(network)
                await driver.restore([network], [(living, state)])
                seen = self.look(alive)
                if seen is not None and driver.capabilities.addresses:
                    assert living.addresses[0].address in seen
                    assert self.look(dead) in ({"127.0.0.1/8"}, set())
                if driver.capabilities.publishes:
                    with pytest.raises(Conflict):
                        await driver.attach(self.endpoint(network, new, 4, PublishedPort("tcp", "0.0.0.0", 8080, 80)))
                free = self.endpoint(network, new, 4, PublishedPort("tcp", "0.0.0.0", 8081, 80))
                await driver.detach(free, await driver.attach(free))
                await driver.detach(living, state)
            await driver.delete_network(network)
            await driver.close()

        self.host(main)

    def test_two_daemons_do_not_disturb_each_other(self, factory: Factory) -> None:
        async def main() -> None:
            one, two = factory(self.context("one")), factory(self.context("two"))
            first, second = self.network("a", "10.211.0"), self.network("b", "10.212.0")
            await one.create_network(first)
            await two.create_network(second)
            with self.namespace() as here, self.namespace() as there:
                mine = self.endpoint(first, here, 2)
                theirs = self.endpoint(second, there, 3)
                state = await one.attach(mine)
                other = await two.attach(theirs)
                await two.restore([], [])
                if self.look(here) is not None and one.capabilities.addresses:
                    assert mine.addresses[0].address in (self.look(here) or set())
                await two.detach(theirs, other)
                await one.detach(mine, state)
            await one.delete_network(first)
            await two.delete_network(second)
            await one.close()
            await two.close()

        self.host(main)
