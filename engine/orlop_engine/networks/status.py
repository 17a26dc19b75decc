"""The networks of one container, from its row and its sandbox, for front ends and filters. This module does no I/O."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from orlop_engine.types.containers import EndpointSettings
from orlop_sdk import PublishedPort

from .ports import normal_ports
from .records import AttachedEndpoint, Sandbox

__all__ = ["ContainerNetworks", "EndpointStatus", "container_networks"]


class EndpointStatus(msgspec.Struct, frozen=True):
    """A container's endpoint on one network: the client's settings, and while the container runs, the attached endpoint.
    `network_id` is "" if the network was removed."""

    network_id: str
    settings: EndpointSettings
    attached: AttachedEndpoint | None = None


class ContainerNetworks(msgspec.Struct, frozen=True):
    """`endpoints`: by network name. `ports`: "80/tcp" -> the host addresses where the port is published; empty for a port
    that is only exposed."""

    sandbox: Sandbox | None
    endpoints: Mapping[str, EndpointStatus]
    ports: Mapping[str, Collection[PublishedPort]]
    bridge: str = ""
    """The bridge that the administrator has created for the default network, if the container is on that network."""


def _ports(exposed: Collection[str], published: Collection[PublishedPort]) -> dict[str, list[PublishedPort]]:
    found: dict[str, list[PublishedPort]] = {port: [] for port in sorted(normal_ports(exposed))}
    for port in published:
        found.setdefault(f"{port.container_port}/{port.protocol}", []).append(port)
    return found


def container_networks(
    sandbox: Sandbox | None,
    configured: Mapping[str, tuple[str, EndpointSettings]],
    exposed: Collection[str],
    *,
    running: bool,
) -> ContainerNetworks:
    """The networks of a container. For a stopped container, the networks come from `configured`, which maps the name of a
    network to its id and the settings. As in Docker, only the endpoint of the gateway has ports; a container without a
    gateway (modes `host`, `none`, `container:`; internal networks) has no ports."""
    attached = sandbox.endpoints if sandbox else ()
    endpoints = {each.network.name: EndpointStatus(each.network.id, each.settings, each) for each in attached} or {
        name: EndpointStatus(network_id, settings) for name, (network_id, settings) in configured.items()
    }
    ports = _ports(exposed, sandbox.ports) if running and sandbox and sandbox.gateway else {}
    return ContainerNetworks(sandbox, endpoints, ports)
