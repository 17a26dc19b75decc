"""Checks and orders a container's requests for networks. This module does no I/O and allocates nothing."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from orlop_engine.config import defaults
from orlop_engine.types.containers import EndpointIPAMConfig, EndpointSettings
from orlop_sdk import InvalidParameter

from .creation import PREDEFINED
from .records import NetworkRecord

__all__ = [
    "Request",
    "check_combination",
    "check_settings",
    "choose_gateway",
    "dns_names",
    "endpoint_sysctls",
    "interface_names",
    "link_local",
    "network_of",
    "order",
]

_OPTION = "com.docker.network."
_DERIVED = "user specified IP address is supported only when connecting to networks with user configured subnets"
NONE_IS_ALONE = "container cannot be connected to multiple networks with one of the networks in private (none) mode"
SHARED_NAMESPACE = (
    "container sharing network namespace with another container or host cannot be connected to any other network"
)
CONFIG_ONLY = "cannot create endpoint on configuration-only network"
HOST_NETWORK_FIXED = "container cannot be disconnected from host network or connected to host network"
_INVALID = "invalid endpoint settings:\n"


class Request(NamedTuple):
    """One network and the settings requested for it."""

    record: NetworkRecord
    settings: EndpointSettings


def network_of(name: str, settings: EndpointSettings | None) -> str:
    """The network of an entry of `EndpointsConfig`. `NetworkID` takes precedence over the key, unless the key is a
    predefined network (see getNetworkID in Docker). Access checks must use this function too."""
    if name in PREDEFINED or settings is None or not settings.network_id:
        return defaults.DEFAULT_NETWORK if name == "default" else name
    return settings.network_id


def check_combination(network_mode: str, records: Sequence[NetworkRecord]) -> None:
    """Raise `InvalidParameter` if a container cannot be on all these networks. The order of the requests is irrelevant. Only
    a container with network mode `host` may be on the host's network, because the namespace and access checks depend on the
    mode."""
    names = {record.name for record in records}
    if network_mode == defaults.HOST_NETWORK:
        if names - {defaults.HOST_NETWORK}:
            raise InvalidParameter(SHARED_NAMESPACE)
    elif defaults.HOST_NETWORK in names:
        raise InvalidParameter(HOST_NETWORK_FIXED if len(records) == 1 else SHARED_NAMESPACE)
    if defaults.NO_NETWORK in names and len(records) > 1:
        raise InvalidParameter(NONE_IS_ALONE)


def _addresses(settings: EndpointSettings) -> tuple[str, str]:
    config = settings.ipam_config or EndpointIPAMConfig()
    return config.ipv4_address, config.ipv6_address


def check_settings(record: NetworkRecord, settings: EndpointSettings, *, at_create: bool = False) -> None:
    """Raise `InvalidParameter`, with Docker's messages, if these settings are invalid on this network. At the create of a
    container, some messages name the network."""
    try:
        _check_settings(record, settings)
    except InvalidParameter as error:
        if at_create and str(error).startswith(_INVALID):
            raise InvalidParameter(f"invalid config for network {record.name}: {error}") from None
        raise


def _check_settings(record: NetworkRecord, settings: EndpointSettings) -> None:
    addresses = [address for address in _addresses(settings) if address]
    if addresses and record.predefined:
        raise InvalidParameter(_INVALID + "user-specified IP address is supported on user-defined networks only")
    if settings.aliases and record.predefined:
        raise InvalidParameter(_INVALID + "network-scoped aliases are only supported for user-defined networks")
    for address in addresses:
        version = 6 if ":" in address else 4
        subnets = [each for each in record.subnets if (":" in each.subnet) == (version == 6)]
        if not any(each.chosen for each in subnets):
            raise InvalidParameter(_INVALID + _DERIVED)
        if not any(_lies_in(address, each.subnet) for each in subnets):
            raise InvalidParameter(_INVALID + f"no configured subnet or ip-range contain the IP address {address}")
    chosen = link_local(settings)
    if chosen and record.name in (defaults.HOST_NETWORK, defaults.NO_NETWORK):
        raise InvalidParameter(_INVALID + f"network {record.name} does not support link-local addresses")
    if any(":" in address for address in chosen) and not record.ipv6:
        raise InvalidParameter(_INVALID + f"network {record.name} has no IPv6, which a link-local IPv6 address needs")
    mac = settings.mac_address
    if mac:
        parts = mac.replace("-", ":").split(":")
        if len(parts) != 6 or not all(len(part) == 2 and _is_hex(part) for part in parts):
            raise InvalidParameter(f"invalid MAC address: {mac}")
    endpoint_sysctls(settings)


def link_local(settings: EndpointSettings) -> tuple[str, ...]:
    """The requested link-local addresses, with Docker's prefix lengths. Raises `InvalidParameter` for an invalid address."""
    found: list[str] = []
    for text in (settings.ipam_config and settings.ipam_config.link_local_ips) or ():
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            address = ipaddress.IPv4Address(0)
        if address.is_unspecified or "%" in text:  # like Docker, allow no zone: the interface is known
            raise InvalidParameter(f"{_INVALID}invalid link-local IP address: {text}".rstrip())
        address = (isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped) or address
        if not address.is_link_local:
            raise InvalidParameter(f"invalid link local IP address: {text}")
        found.append(f"{address}/{16 if address.version == 4 else 64}")
    if len(set(found)) < len(found):
        raise InvalidParameter(_INVALID + "a link-local IP address occurs twice")
    return tuple(found)


def _lies_in(address: str, subnet: str) -> bool:
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(subnet)
    except ValueError:
        return False


def _is_hex(text: str) -> bool:
    return all(character in "0123456789abcdefABCDEF" for character in text)


def endpoint_sysctls(settings: EndpointSettings) -> tuple[tuple[str, str], ...]:
    """`com.docker.network.endpoint.sysctls`: "net.ipv4.conf.IFNAME.log_martians=1,..."."""
    text = (settings.driver_opts or {}).get(_OPTION + "endpoint.sysctls", "")
    found = []
    for entry in text.split(",") if text else ():
        key, sign, value = entry.strip().partition("=")
        parts = key.split(".")
        if not sign or len(parts) < 5 or parts[0] != "net" or parts[3] != "IFNAME":
            raise InvalidParameter(
                f"unrecognised network interface sysctl '{entry}'; represent 'net.X.Y.ethN.Z=V' as 'net.X.Y.IFNAME.Z=V'"
            )
        found.append((key, value))
    return tuple(found)


def choose_gateway(requests: Sequence[Request]) -> Request | None:
    """The request whose network provides the default route. This is the request with the highest priority. With equal
    priorities, a network with IPv4 and IPv6 comes first, then the order of names decides. Internal networks cannot provide
    the default route. None if there is no suitable network."""
    able = [request for request in requests if request.record.subnets and not request.record.internal]
    if not able:
        return None
    return min(
        able,
        key=lambda request: (
            -request.settings.gw_priority,
            not (request.record.ipv4 and request.record.ipv6),
            request.record.name,
        ),
    )


def interface_names(requests: Sequence[Request]) -> list[str]:
    """eth0, eth1, ... in order, skipping names that are requested explicitly."""
    asked = [(request.settings.driver_opts or {}).get(_OPTION + "endpoint.ifname", "") for request in requests]
    used = set(filter(None, asked))
    if len(used) != len([name for name in asked if name]):
        raise InvalidParameter("duplicate network interface name")
    found = []
    for request, name in zip(requests, asked, strict=True):
        if not name:
            prefix = request.record.options.get(_OPTION + "container_iface_prefix", "eth")
            number = 0
            while f"{prefix}{number}" in used:
                number += 1
            name = f"{prefix}{number}"
            used.add(name)
        elif not (0 < len(name) < 16) or "/" in name or any(character.isspace() for character in name):
            raise InvalidParameter(f"invalid network interface name: {name!r}")
        found.append(name)
    return found


def dns_names(
    record: NetworkRecord, settings: EndpointSettings, name: str, container_id: str, hostname: str
) -> tuple[str, ...]:
    """The names by which other containers of a user-defined network can look up this container, in Docker's order."""
    if record.predefined or not record.subnets:
        return ()
    names = [name, *(settings.aliases or ()), container_id[:12], hostname]
    return tuple(dict.fromkeys(each for each in names if each))


def order(requests: Mapping[str, Request], first: str) -> list[Request]:
    """The requests in order: the network of the network mode first, if requested, then by name."""
    return [requests[ident] for ident in sorted(requests, key=lambda each: (each != first, requests[each].record.name))]
