"""The network driver `mydriver`. Each network is a bridge with the address of the gateway, and each container has a veth
pair. Containers of a network reach each other and the host. The driver publishes no ports and makes no firewall rules.

All links of the driver on the host have names that begin with a prefix. It depends on the driver and on the daemon's
instance, so two daemons on one host do not use each other's links:

    b<prefix><id of the network>     a bridge
    v<prefix><id of the endpoint>    the host's end of a veth pair
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from hashlib import sha256

import trio

from orlop_sdk import (
    DriverError,
    Endpoint,
    EndpointState,
    InvalidParameter,
    NetworkCapabilities,
    NetworkContext,
    NetworkSpec,
    Register,
    hookimpl,
    linux,
)

__all__ = ["MyDriver", "orlop_network"]

_TIMEOUT = 20.0  # seconds; less than the daemon's deadline, so that clients get this driver's error message


def _ip(namespace: int, *lines: str) -> None:
    """Run commands of ip(8) in a network namespace, given by its descriptor. The first error ends the run."""
    with linux.in_network_namespace(namespace):
        _output(("ip", "-batch", "-"), "\n".join(lines) + "\n")


def _output(argv: Sequence[str], text: str = "") -> str:
    try:
        done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=_TIMEOUT, check=True)
    except subprocess.CalledProcessError as error:
        raise DriverError(f"cannot configure a network: ip: {error.stderr.strip()}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DriverError(f"cannot configure a network: {error}") from error
    return done.stdout


class MyDriver:
    """Implements `NetworkDriver`. ip(8) runs on worker threads."""

    def __init__(self, context: NetworkContext) -> None:
        self._prefix = sha256(f"mydriver/{context.instance}".encode()).hexdigest()[:4]
        self._mtu = context.mtu
        # A worker thread can be in another network namespace than this thread (in tests), so enter this one explicitly
        self._host = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    @property
    def capabilities(self) -> NetworkCapabilities:
        return NetworkCapabilities(publishes=False, link_local=True)

    def _bridge(self, network: NetworkSpec) -> str:
        return f"b{self._prefix}{network.id[:10]}"  # names of links have at most 15 characters

    def _veth(self, endpoint: Endpoint) -> str:
        return f"v{self._prefix}{endpoint.id[:10]}"

    def _links(self) -> list[str]:
        """The names of this instance's links on the host."""
        with linux.in_network_namespace(self._host):
            names = [link["ifname"] for link in json.loads(_output(("ip", "-json", "link")) or "[]")]
        return [name for name in names if name.startswith((f"b{self._prefix}", f"v{self._prefix}"))]

    def _delete(self, link: str) -> None:
        if link in self._links():
            try:
                _ip(self._host, f"link delete {link}")
            except DriverError:
                if link in self._links():  # otherwise the kernel has deleted it, together with the container's namespace
                    raise

    async def create_network(self, network: NetworkSpec) -> None:
        for option in network.options:
            raise InvalidParameter(f'cannot create network {network.name}: the driver mydriver has no option "{option}"')
        await trio.to_thread.run_sync(self._create_network, network)

    def _create_network(self, network: NetworkSpec) -> None:
        bridge = self._bridge(network)
        if bridge not in self._links():
            _ip(self._host, f"link add {bridge} mtu {self._mtu} type bridge")
        lengths = [(each.gateway, each.subnet.rpartition("/")[2]) for each in network.subnets if each.gateway]
        _ip(
            self._host,
            *(f"address replace {gateway}/{length} dev {bridge}" for gateway, length in lengths),
            f"link set {bridge} up",
        )

    async def delete_network(self, network: NetworkSpec) -> None:
        await trio.to_thread.run_sync(self._delete, self._bridge(network))

    async def attach(self, endpoint: Endpoint) -> EndpointState:
        return await trio.to_thread.run_sync(self._attach, endpoint)

    def _attach(self, endpoint: Endpoint) -> EndpointState:
        link = self._veth(endpoint)
        self._delete(link)  # an earlier attach may have been interrupted by a crash
        try:
            mac = f"address {endpoint.mac}" if endpoint.mac else ""
            inner = f"c{link[1:]}"  # the name in the container may exist on the host, such as eth0
            _ip(
                self._host,
                f"link add {link} mtu {self._mtu} type veth peer name {inner} mtu {self._mtu} {mac}",
                f"link set {inner} netns {endpoint.netns}",
                f"link set {link} master {self._bridge(endpoint.network)} up",
            )
            found = self._configure(endpoint, inner)
        except BaseException:
            self._delete(link)
            raise
        return EndpointState(mac=found, host_link=link)

    def _configure(self, endpoint: Endpoint, inner: str) -> str:
        """Configure the container's end of the pair, and return its MAC address."""
        namespace = os.open(endpoint.netns, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _ip(namespace, f"link set {inner} name {endpoint.ifname}")
            with linux.in_network_namespace(namespace):
                for key, value in endpoint.sysctls:
                    path = key.replace("IFNAME", endpoint.ifname).replace(".", "/")
                    with open(f"/proc/sys/{path}", "w") as file:
                        file.write(value)
                mac = json.loads(_output(("ip", "-json", "link", "show", endpoint.ifname)))[0]["address"]
            addresses = [*(each.address for each in endpoint.addresses), *endpoint.link_local]
            nodad = {address: "nodad" if ":" in address else "" for address in addresses}
            _ip(
                namespace,
                "link set lo up",
                *(f"address add {address} dev {endpoint.ifname} {flag}" for address, flag in nodad.items()),
                f"link set {endpoint.ifname} up",
                *self._routes(endpoint),
            )
            return str(mac)
        except OSError as error:
            raise DriverError(f"cannot configure {endpoint.ifname} of a container: {error}") from error
        finally:
            os.close(namespace)

    @staticmethod
    def _routes(endpoint: Endpoint) -> list[str]:
        gateways = [each.gateway for each in endpoint.addresses if each.gateway and endpoint.default_route]
        return [f"route replace default via {gateway} dev {endpoint.ifname}" for gateway in gateways]

    async def update(self, endpoint: Endpoint, state: EndpointState) -> None:
        await trio.to_thread.run_sync(self._update, endpoint)

    def _update(self, endpoint: Endpoint) -> None:
        namespace = os.open(endpoint.netns, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if endpoint.default_route:
                _ip(namespace, *self._routes(endpoint))
            else:
                for family in ("-4", "-6"):
                    with linux.in_network_namespace(namespace):
                        _output(("ip", family, "route", "flush", "default", "dev", endpoint.ifname))
        finally:
            os.close(namespace)

    async def detach(self, endpoint: Endpoint, state: EndpointState) -> None:
        await trio.to_thread.run_sync(self._delete, self._veth(endpoint))

    async def restore(self, networks: Sequence[NetworkSpec], endpoints: Sequence[tuple[Endpoint, EndpointState]]) -> None:
        """Delete the links of networks and endpoints that no longer exist. Connect endpoints that have lost their link."""
        wanted = {self._bridge(network) for network in networks} | {self._veth(endpoint) for endpoint, _ in endpoints}
        present = await trio.to_thread.run_sync(self._links)
        for link in present:
            if link not in wanted:
                await trio.to_thread.run_sync(self._delete, link)
        for endpoint, _ in endpoints:
            if self._veth(endpoint) not in present:
                await trio.to_thread.run_sync(self._attach, endpoint)

    async def close(self) -> None:
        if self._host >= 0:
            os.close(self._host)
            self._host = -1


@hookimpl
def orlop_network(register: Register) -> None:
    register("mydriver", MyDriver, spi_version=1)
