"""What networks keep: the row of a network, and the sandbox that a container's row holds. What a plan is made of."""

from __future__ import annotations

import socket

import msgspec

from orlop_engine.types.containers import EndpointSettings
from orlop_monitor.protocol import Forward
from orlop_sdk import Endpoint, EndpointState, NetworkSpec, PublishedPort

__all__ = [
    "GATEWAY_AUXILIARIES",
    "AttachedEndpoint",
    "NetworkRecord",
    "Plan",
    "PlannedEndpoint",
    "Sandbox",
    "SubnetRecord",
    "decode",
    "encode",
]


GATEWAY_AUXILIARIES = {4: "DefaultGatewayIPv4", 6: "DefaultGatewayIPv6"}
"""Docker's names of the auxiliary address that containers route by in place of the bridge's."""


class SubnetRecord(msgspec.Struct, frozen=True):
    """One entry of `IPAM.Config`. `gateway` is always filled in; `chosen`: the subnet was a user's wish, not ours."""

    subnet: str
    gateway: str
    ip_range: str = ""
    auxiliary: dict[str, str] = {}
    chosen: bool = False

    @property
    def route_by(self) -> str:
        """The gateway of containers."""
        return self.auxiliary.get(GATEWAY_AUXILIARIES[6 if ":" in self.subnet else 4]) or self.gateway


class NetworkRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the table `networks`, by `id`. Times are Unix ns."""

    id: str
    name: str
    driver: str
    created_ns: int
    subnets: tuple[SubnetRecord, ...] = ()
    ipam_driver: str = "default"
    ipam_options: dict[str, str] | None = None
    options: dict[str, str] = {}
    labels: dict[str, str] = {}
    ipv4: bool = True
    ipv6: bool = False
    internal: bool = False
    attachable: bool = False
    predefined: bool = False


class AttachedEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A container's place on one network. `endpoint.network` is the network as it was when the container started."""

    driver: str
    endpoint: Endpoint
    state: EndpointState
    settings: EndpointSettings
    dns_names: tuple[str, ...] = ()

    @property
    def network(self) -> NetworkSpec:
        return self.endpoint.network


class Sandbox(msgspec.Struct, frozen=True, kw_only=True):
    """All of a running container's network. The first endpoint is that of its network mode, if it is on that. `iptables`: as
    it was at the start; false in a row of a daemon that did not keep it."""

    container_id: str
    container_name: str
    network_mode: str
    endpoints: tuple[AttachedEndpoint, ...] = ()
    hostname: str = ""
    iptables: bool = False

    @property
    def gateway(self) -> AttachedEndpoint | None:
        """Where its default route leads, and its ports are published."""
        return next((attached for attached in self.endpoints if attached.endpoint.default_route), None)

    @property
    def ports(self) -> tuple[PublishedPort, ...]:
        return tuple(port for attached in self.endpoints for port in attached.endpoint.ports)


class PlannedEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint before its namespace exists (`endpoint.netns` is "")."""

    driver: str
    endpoint: Endpoint
    settings: EndpointSettings
    dns_names: tuple[str, ...] = ()


class Plan:
    """What a start has reserved: give it to `Networks.attach`, or to `abandon`. Owns its sockets until they are handed over
    (`forwards` and `sockets` match one to one)."""

    def __init__(self, container_id: str, container_name: str, network_mode: str, hostname: str) -> None:
        self.container_id = container_id
        self.container_name = container_name
        self.network_mode = network_mode
        self.hostname = hostname
        self.endpoints: list[PlannedEndpoint] = []
        self.sockets: list[socket.socket] = []
        self.forwards: list[Forward] = []
        self.attached = False

    def close_sockets(self) -> None:
        """Ours only: a monitor that was given them has its own. May be called twice."""
        for sock in self.sockets:
            sock.close()


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(NetworkRecord).decode
