"""What a request to create a network comes to: checked, its subnets chosen. No I/O; what the host uses is passed in."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from msgspec import UNSET

from orlop_engine.types.networks import CreateRequest, IPAMConfig
from orlop_kernel.config import Config
from orlop_sdk import Forbidden, InvalidParameter

from .ipam import DEFAULT_POOLS, AddressPool, IPNetwork, check_overlap, find_subnet, parse_address, parse_subnet
from .records import SubnetRecord

__all__ = [
    "PREDEFINED",
    "Choice",
    "address_pools",
    "check_request",
    "choose_subnets",
    "families",
    "outside",
    "overlapping",
    "ula_pool",
]

PREDEFINED = ("bridge", "host", "none", "default")


class Choice(NamedTuple):
    """What subnets are chosen from: pools, networks of ours, what the host uses."""

    pools: Sequence[tuple[str, int]]
    taken: Collection[IPNetwork]
    avoid: Collection[IPNetwork]


def ula_pool(host_id: str) -> tuple[str, int]:
    """A /48 of unique local addresses for this host, cut into /64 (RFC 4193). Made of a digest, so that it stays."""
    digest = hashlib.sha256(host_id.encode()).digest()
    base = ipaddress.IPv6Network((int.from_bytes(b"\xfd" + digest[:5] + bytes(10), "big"), 48))
    return str(base), 64


def address_pools(config: Config, host_id: str) -> list[tuple[str, int]]:
    """(base, prefix length) of what networks without a subnet are cut from."""
    pools = [(pool.base, pool.size) for pool in config.default_address_pools] or list(DEFAULT_POOLS)
    if not any(":" in base for base, _ in pools):
        pools.append(ula_pool(host_id))
    return pools


def check_request(request: CreateRequest) -> None:
    if not request.name.strip():
        raise InvalidParameter("invalid name: name is empty")
    if request.name in PREDEFINED or request.name.startswith("container:"):  # what network modes mean something else by
        raise Forbidden(f"operation is not permitted on predefined {request.name} network ")
    if request.driver in ("host", "null"):
        raise Forbidden(f'only one instance of "{request.driver}" network is allowed')
    if request.ingress or request.scope == "swarm":
        raise Forbidden("This node is not a swarm manager. Swarm-scoped networks are not available")
    if request.config_only or (request.config_from and request.config_from.network):
        raise InvalidParameter("configuration-only networks are not supported")
    if request.ipam and request.ipam.driver not in ("", "default"):
        raise InvalidParameter(f"could not find IPAM driver {request.ipam.driver}: only the default one is available")


def _asked(request: CreateRequest) -> Iterator[tuple[str, IPNetwork]]:
    """The subnets that are asked for. Not those that cannot be, which `create` refuses, nor those that are to be found
    ("0.0.0.0/24"), which lie in the pools and keep clear by themselves."""
    for config in (request.ipam.config or ()) if request.ipam else ():
        try:
            subnet = ipaddress.ip_network(config.subnet, strict=False)
        except ValueError:
            continue
        if int(subnet.network_address):
            yield config.subnet, subnet


def overlapping(request: CreateRequest, avoid: Collection[IPNetwork]) -> list[str]:
    """The subnets that are asked for and overlap one of these."""
    return [
        text
        for text, subnet in _asked(request)
        if any(subnet.version == each.version and subnet.overlaps(each) for each in avoid)
    ]


def outside(request: CreateRequest, pools: Collection[tuple[str, int]]) -> list[str]:
    """The subnets that are asked for and lie in none of the pools."""
    bases = [ipaddress.ip_network(base, strict=False) for base, _ in pools]
    return [
        text
        for text, subnet in _asked(request)
        if not any(subnet.version == base.version and subnet.subnet_of(base) for base in bases)  # type: ignore[arg-type]
    ]


_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})


def _wanted(given: object, options: Mapping[str, str], key: str, default: bool) -> bool:
    """The field, else the option, which older clients send and `default-network-opts` may have, else the default."""
    if given is not UNSET and given is not None:
        return bool(given)
    text = options.get(key)
    if text is None:
        return default
    if text not in _TRUE | _FALSE:
        raise InvalidParameter(f'driver-opt "{key}" is not a valid bool')
    return text in _TRUE


def families(request: CreateRequest, options: Mapping[str, str]) -> tuple[bool, bool]:
    """(IPv4, IPv6) wanted. `options`: those of the request and, where it is silent, daemon.json's."""
    ipv4 = _wanted(request.enable_ipv4, options, "com.docker.network.enable_ipv4", True)
    ipv6 = _wanted(request.enable_ipv6, options, "com.docker.network.enable_ipv6", False)
    if not (ipv4 or ipv6):
        raise InvalidParameter("IPv4 or IPv6 must be enabled")
    return ipv4, ipv6


def _sort(configs: Sequence[IPAMConfig]) -> dict[int, IPAMConfig]:
    """By family; one each."""
    found: dict[int, IPAMConfig] = {}
    for config in configs:
        text = config.subnet or config.gateway or config.ip_range
        version = 6 if ":" in text else 4
        if version in found:
            raise InvalidParameter(f"bridge driver supports one subnet for each family: there are two for IPv{version}")
        found[version] = config
    return found


def _one(version: int, config: IPAMConfig, choice: Choice) -> SubnetRecord:
    size = None
    if config.subnet:
        subnet = parse_subnet(config.subnet)
        if not int(subnet.network_address):  # "0.0.0.0/24", "::/64": any of this size
            size = subnet.prefixlen
    if config.subnet and size is None:
        check_overlap(subnet, choice.taken)
    elif config.gateway or config.ip_range:
        raise InvalidParameter("invalid IPAM configuration: a gateway or an IP range needs a subnet")
    else:
        subnet = find_subnet(version, choice.pools, choice.taken, choice.avoid, size)
    auxiliary = config.auxiliary_addresses or {}
    for text in (config.gateway, *auxiliary.values()):
        if text and parse_address(text, "address") not in subnet:
            raise InvalidParameter(f"no matching subnet for {'gateway' if text == config.gateway else 'aux-address'} {text}")
    pool = AddressPool(subnet, config.gateway, config.ip_range, auxiliary.values())
    return SubnetRecord(str(subnet), pool.gateway, config.ip_range, dict(auxiliary), bool(config.subnet) and size is None)


def choose_subnets(ipv4: bool, ipv6: bool, configs: Sequence[IPAMConfig], choice: Choice) -> tuple[SubnetRecord, ...]:
    """IPv4 first. Raises `InvalidParameter` or `Forbidden` in Docker's words."""
    given = _sort(configs)
    if 6 in given and not ipv6:
        raise InvalidParameter("IPv6 is not enabled on this network, but it has an IPv6 subnet")
    if 4 in given and not ipv4:
        raise InvalidParameter("IPv4 is not enabled on this network, but it has an IPv4 subnet")
    return tuple(
        _one(version, given.get(version) or IPAMConfig(), choice) for version, wanted in ((4, ipv4), (6, ipv6)) if wanted
    )
