"""`NetworkSettings` of a container. No I/O."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

import msgspec

from orlop_engine.config import defaults
from orlop_engine.types.containers import EndpointSettings
from orlop_sdk import InvalidParameter, PublishedPort

from .ports import parse_port
from .records import AttachedEndpoint, Sandbox

__all__ = ["container_settings", "normal_ports"]


def _addresses(attached: AttachedEndpoint) -> dict[int, tuple[str, int, str]]:
    """Family -> (address, prefix length, gateway)."""
    found: dict[int, tuple[str, int, str]] = {}
    for each in attached.endpoint.addresses:
        address, _, length = each.address.partition("/")
        found.setdefault(6 if ":" in address else 4, (address, int(length), each.gateway))
    return found


def normal_ports(exposed: Collection[str]) -> list[str]:
    """ "80-81" -> ["80/tcp", "81/tcp"]. Skips invalid ports: an image may contain anything, and one image must not break
    lists."""
    found: list[str] = []
    for text in exposed:
        with suppress(InvalidParameter):
            found += [f"{port}/{protocol}" for port, protocol in parse_port(text)]
    return found


def _ports(exposed: Collection[str], published: Collection[PublishedPort]) -> dict[str, list[dict[str, str]] | None]:
    found: dict[str, list[dict[str, str]] | None] = dict.fromkeys(sorted(normal_ports(exposed)))
    for port in published:
        key = f"{port.container_port}/{port.protocol}"
        bindings = found.get(key) or []
        bindings.append({"HostIp": port.host_ip, "HostPort": str(port.host_port)})
        found[key] = bindings
    return found


def _endpoint(settings: EndpointSettings, network_id: str, attached: AttachedEndpoint | None) -> dict[str, Any]:
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
        "NetworkID": network_id,
        "EndpointID": attached.endpoint.id if attached else "",
        "Gateway": gateway,
        "IPAddress": address,
        "IPPrefixLen": length,
        "IPv6Gateway": gateway6,
        "GlobalIPv6Address": address6,
        "GlobalIPv6PrefixLen": length6,
        "DNSNames": list(attached.dns_names) or None if attached else None,
    }


_LEGACY = (
    "EndpointID",
    "Gateway",
    "GlobalIPv6Address",
    "GlobalIPv6PrefixLen",
    "IPAddress",
    "IPPrefixLen",
    "IPv6Gateway",
    "MacAddress",
)


def container_settings(
    sandbox: Sandbox | None,
    configured: Mapping[str, tuple[str, EndpointSettings]],
    exposed: Collection[str],
    *,
    running: bool,
) -> dict[str, Any]:
    """`NetworkSettings`. A stopped container shows `configured` (network name -> (its id, the settings)). The top-level
    address fields are those of the default bridge, as old clients expect; the API layer drops them for new ones. Ports are
    those of the gateway's endpoint, as in Docker: without one (modes `host`, `none`, `container:`; internal networks) there
    are none."""
    attached = {each.network.name: each for each in sandbox.endpoints} if sandbox else {}
    networks = {name: _endpoint(each.settings, each.network.id, each) for name, each in attached.items()} or {
        name: _endpoint(settings, network_id, None) for name, (network_id, settings) in configured.items()
    }
    legacy = networks.get(defaults.DEFAULT_NETWORK) if sandbox else None
    sandbox_id = sandbox.container_id if sandbox else ""
    return {
        "Bridge": "",
        "SandboxID": sandbox_id,
        "SandboxKey": sandbox.endpoints[0].endpoint.netns if sandbox and sandbox.endpoints else "",
        "Ports": _ports(exposed, sandbox.ports) if running and sandbox and sandbox.gateway else {},
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        **{key: legacy[key] if legacy else (0 if key.endswith("Len") else "") for key in _LEGACY},
        "Networks": networks,
    }
