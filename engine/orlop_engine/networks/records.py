"""The stored records (the row of a network, and the sandbox in a container's row), and the plan of a start."""

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
"""Docker's names of the auxiliary addresses that containers use as gateway instead of the bridge's address."""


class SubnetRecord(msgspec.Struct, frozen=True):
    """One entry of `IPAM.Config`. `gateway` is always set. `chosen`: a user chose the subnet."""

    subnet: str
    gateway: str
    ip_range: str = ""
    auxiliary: dict[str, str] = {}
    chosen: bool = False

    @property
    def route_by(self) -> str:
        """The gateway that containers use."""
        return self.auxiliary.get(GATEWAY_AUXILIARIES[6 if ":" in self.subnet else 4]) or self.gateway


class NetworkRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the table `networks`; the key is `id`. Times are Unix ns. A network with `config_only` has only settings for
    other networks, which name it in `config_from`. Its subnets are in `template`, as a user gave them: they may lack a
    gateway, and are not allocated."""

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
    config_only: bool = False
    config_from: str = ""
    template: tuple[SubnetRecord, ...] = ()


class AttachedEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A container's endpoint on one network. `endpoint.network` is the network as it was when the container started."""

    driver: str
    endpoint: Endpoint
    state: EndpointState
    settings: EndpointSettings
    dns_names: tuple[str, ...] = ()

    @property
    def network(self) -> NetworkSpec:
        return self.endpoint.network


class Sandbox(msgspec.Struct, frozen=True, kw_only=True):
    """The complete network of a running container. The first endpoint is on the network of the network mode, if the
    container is on that network. `iptables`: the daemon's setting at the container's start; false in a row of an older
    daemon, which did not store it."""

    container_id: str
    container_name: str
    network_mode: str
    endpoints: tuple[AttachedEndpoint, ...] = ()
    hostname: str = ""
    iptables: bool = False

    @property
    def gateway(self) -> AttachedEndpoint | None:
        """The endpoint that has the default route and the published ports."""
        return next((attached for attached in self.endpoints if attached.endpoint.default_route), None)

    @property
    def ports(self) -> tuple[PublishedPort, ...]:
        return tuple(port for attached in self.endpoints for port in attached.endpoint.ports)


class PlannedEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint before its network namespace exists (`endpoint.netns` is "")."""

    driver: str
    endpoint: Endpoint
    settings: EndpointSettings
    dns_names: tuple[str, ...] = ()


class Plan:
    """The addresses and ports that a start has reserved. Pass the plan to `Networks.attach` or to `Networks.abandon`. The
    plan keeps its sockets open until they are passed to the monitor. `forwards` and `sockets` have the same length and
    order."""

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
        """Close the daemon's copies of the sockets. A monitor that received the sockets has its own copies. May be called
        twice."""
        for sock in self.sockets:
            sock.close()


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(NetworkRecord).decode
