"""`NetworkSettings` of containers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from orlop_engine.config import defaults
from orlop_engine.networks.records import AttachedEndpoint
from orlop_engine.networks.status import ContainerNetworks, EndpointStatus
from orlop_sdk import PublishedPort

__all__ = ["network_settings", "networks_in_list", "published_ports"]

_ONLY_INSPECT = {"Links": None, "Aliases": None, "DriverOpts": None, "DNSNames": None}
"""Fields of a network that the list omits."""
_OF_DEFAULT_BRIDGE = (
    "EndpointID",
    "Gateway",
    "GlobalIPv6Address",
    "GlobalIPv6PrefixLen",
    "IPAddress",
    "IPPrefixLen",
    "IPv6Gateway",
    "MacAddress",
)


def _addresses(attached: AttachedEndpoint) -> dict[int, tuple[str, int, str]]:
    """IP version -> (address, prefix length, gateway)."""
    found: dict[int, tuple[str, int, str]] = {}
    for each in attached.endpoint.addresses:
        address, _, length = each.address.partition("/")
        found.setdefault(6 if ":" in address else 4, (address, int(length), each.gateway))
    return found


def _endpoint(status: EndpointStatus) -> dict[str, Any]:
    settings, attached = status.settings, status.attached
    addresses = _addresses(attached) if attached else {}
    address, length, gateway = addresses.get(4, ("", 0, ""))
    address6, length6, gateway6 = addresses.get(6, ("", 0, ""))
    return {
        "IPAMConfig": None if settings.ipam_config is None else msgspec.to_builtins(settings.ipam_config),
        "Links": settings.links,
        "Aliases": settings.aliases,
        "MacAddress": attached.state.mac if attached else settings.mac_address,
        "DriverOpts": settings.driver_opts,
        "GwPriority": settings.gw_priority,
        "NetworkID": status.network_id,
        "EndpointID": attached.endpoint.id if attached else "",
        "Gateway": gateway,
        "IPAddress": address,
        "IPPrefixLen": length,
        "IPv6Gateway": gateway6,
        "GlobalIPv6Address": address6,
        "GlobalIPv6PrefixLen": length6,
        "DNSNames": list(attached.dns_names) or None if attached else None,
    }


def _ports(ports: Mapping[str, Collection[PublishedPort]]) -> dict[str, list[dict[str, str]] | None]:
    return {
        port: [{"HostIp": each.host_ip, "HostPort": str(each.host_port or "")} for each in published] or None
        for port, published in ports.items()
    }


def network_settings(found: ContainerNetworks) -> dict[str, Any]:
    """All fields. The top-level address fields describe the endpoint on the default bridge, as old clients expect."""
    sandbox = found.sandbox
    networks = {name: _endpoint(status) for name, status in found.endpoints.items()}
    bridge = networks.get(defaults.DEFAULT_NETWORK) if sandbox else None
    return {
        "Bridge": found.bridge,
        "SandboxID": sandbox.container_id if sandbox else "",
        "SandboxKey": sandbox.endpoints[0].endpoint.netns if sandbox and sandbox.endpoints else "",
        "Ports": _ports(found.ports),
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        **{key: bridge[key] if bridge else (0 if key.endswith("Len") else "") for key in _OF_DEFAULT_BRIDGE},
        "Networks": networks,
    }


def networks_in_list(found: ContainerNetworks) -> dict[str, Any]:
    """`Networks` of a list item."""
    return {name: {**_endpoint(status), **_ONLY_INSPECT} for name, status in found.endpoints.items()}


def published_ports(found: ContainerNetworks) -> list[dict[str, Any]]:
    """`Ports` of a list item: published ports with their host address, and exposed ports without a host address."""
    out: list[dict[str, Any]] = []
    for port, published in sorted(found.ports.items()):
        number, _, protocol = port.partition("/")
        base = {"PrivatePort": int(number), "Type": protocol or "tcp"}
        out += [{"IP": each.host_ip, "PublicPort": each.host_port, **base} for each in published if each.host_port] or [base]
    return out
