"""Checks a request to create a network and chooses its subnets. This module does no I/O; the caller passes the networks that
the host uses."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
from msgspec import UNSET

from orlop_engine.config import Config, defaults
from orlop_engine.types.networks import IPAM, CreateRequest, IPAMConfig
from orlop_sdk import Forbidden, InvalidParameter
from orlop_sdk.numbers import parse_bool

from .ipam import DEFAULT_POOLS, AddressPool, IPNetwork, check_overlap, find_subnet, parse_address, parse_subnet
from .records import NetworkRecord, SubnetRecord

__all__ = [
    "NO_IPAM",
    "PREDEFINED",
    "Choice",
    "address_pools",
    "apply_template",
    "check_request",
    "choose_subnets",
    "families",
    "overlapping",
    "subnets_outside_pools",
    "template_subnets",
    "ula_pool",
]

NO_IPAM = "null"
"""The IPAM driver of networks without addresses, as Docker names it."""
PREDEFINED = (*defaults.PREDEFINED_NETWORKS, "default")


class Choice(NamedTuple):
    """The data for the choice of a subnet: the address pools, the existing networks (`taken`), and the networks that the
    host uses (`avoid`)."""

    pools: Sequence[tuple[str, int]]
    taken: Collection[IPNetwork]
    avoid: Collection[IPNetwork]


def ula_pool(host_id: str) -> tuple[str, int]:
    """A /48 of unique local addresses for this host, divided into /64 subnets (RFC 4193). The prefix is computed from the
    host's id, so it never changes."""
    digest = hashlib.sha256(host_id.encode()).digest()
    base = ipaddress.IPv6Network((int.from_bytes(b"\xfd" + digest[:5] + bytes(10), "big"), 48))
    return str(base), 64


def address_pools(config: Config, host_id: str) -> list[tuple[str, int]]:
    """The pools (base, prefix length) for networks that are created without a subnet."""
    pools = [(pool.base, pool.size) for pool in config.default_address_pools] or list(DEFAULT_POOLS)
    if not any(":" in base for base, _ in pools):
        pools.append(ula_pool(host_id))
    return pools


def check_request(request: CreateRequest) -> None:
    if not request.name.strip():
        raise InvalidParameter("invalid name: name is empty")
    if request.name in PREDEFINED or request.name.startswith("container:"):  # this name is a network mode
        raise Forbidden(f"operation is not permitted on predefined {request.name} network ")
    if request.ingress or request.scope == "swarm":
        raise Forbidden("This node is not a swarm manager. Swarm-scoped networks are not available")
    if request.config_only:
        _check_template(request)
    if request.ipam and request.ipam.driver not in ("", "default", NO_IPAM):
        raise InvalidParameter(f'could not find IPAM driver {request.ipam.driver}: there are "default" and "{NO_IPAM}"')
    if request.ipam and request.ipam.driver == NO_IPAM and request.ipam.config:
        raise InvalidParameter("null ipam driver does not handle specific address pool requests")


def _check_template(request: CreateRequest) -> None:
    if request.config_from and request.config_from.network:
        raise Forbidden("a configuration network cannot depend on another configuration network")
    if request.ingress or request.internal or request.attachable or request.scope:
        raise Forbidden(
            "configuration network can only contain network specific fields. Network operator fields like "
            "[ ingress | internal | attachable | scope ] are not supported."
        )


def template_subnets(request: CreateRequest) -> tuple[SubnetRecord, ...]:
    """The subnets of a configuration-only network, as the request has them. Raises `InvalidParameter`."""
    configs = (request.ipam.config or ()) if request.ipam else ()
    for config in configs:
        if config.subnet:
            parse_subnet(config.subnet)
    return tuple(
        SubnetRecord(each.subnet, each.gateway, each.ip_range, dict(each.auxiliary_addresses or {}), True)
        for each in configs
    )


def apply_template(request: CreateRequest, template: NetworkRecord) -> CreateRequest:
    """The request with the settings of a configuration-only network. Raises `Forbidden` if the request has such settings
    itself."""
    ipam = request.ipam or IPAM()
    if ipam.driver not in ("", "default") or ipam.options or ipam.config or request.labels or request.enable_ipv6 is True:
        raise Forbidden("user specified configurations are not supported if the network depends on a configuration network")
    if request.options:
        raise Forbidden("network driver options are not supported if the network depends on a configuration network")
    configs = [
        IPAMConfig(each.subnet, each.ip_range, each.gateway, dict(each.auxiliary) or None) for each in template.template
    ]
    return msgspec.structs.replace(
        request,
        ipam=IPAM(driver=template.ipam_driver, options=template.ipam_options, config=configs),
        options=dict(template.options),
        labels=dict(template.labels),
        enable_ipv4=template.ipv4,
        enable_ipv6=template.ipv6,
    )


def _asked(request: CreateRequest) -> Iterator[tuple[str, IPNetwork]]:
    """The subnets in the request. Skips invalid subnets, because `create` refuses them. Skips wildcards ("0.0.0.0/24"),
    because their subnets are chosen from the pools without an overlap."""
    for config in (request.ipam.config or ()) if request.ipam else ():
        try:
            subnet = ipaddress.ip_network(config.subnet, strict=False)
        except ValueError:
            continue
        if int(subnet.network_address):
            yield config.subnet, subnet


def overlapping(request: CreateRequest, avoid: Collection[IPNetwork]) -> list[str]:
    """The requested subnets that overlap a network of `avoid`."""
    return [
        text
        for text, subnet in _asked(request)
        if any(subnet.version == each.version and subnet.overlaps(each) for each in avoid)
    ]


def subnets_outside_pools(request: CreateRequest, pools: Collection[tuple[str, int]]) -> list[str]:
    """The requested subnets that are in none of the pools."""
    bases = [ipaddress.ip_network(base, strict=False) for base, _ in pools]
    return [
        text
        for text, subnet in _asked(request)
        if not any(subnet.version == base.version and subnet.subnet_of(base) for base in bases)  # type: ignore[arg-type]
    ]


def _wanted(given: object, options: Mapping[str, str], key: str, default: bool) -> bool:
    """The value of the field. If the field is not set, the value of the option, which an older client or
    `default-network-opts` may set. If neither is set, the default."""
    if given is not UNSET and given is not None:
        return bool(given)
    text = options.get(key)
    if text is None:
        return default
    try:
        return parse_bool(text)
    except ValueError:
        raise InvalidParameter(f'driver-opt "{key}" is not a valid bool') from None


def families(request: CreateRequest, options: Mapping[str, str]) -> tuple[bool, bool]:
    """Whether (IPv4, IPv6) are wanted. `options`: the options of the request, completed with the options of daemon.json."""
    ipv4 = _wanted(request.enable_ipv4, options, "com.docker.network.enable_ipv4", True)
    ipv6 = _wanted(request.enable_ipv6, options, "com.docker.network.enable_ipv6", False)
    if not (ipv4 or ipv6):
        raise InvalidParameter("IPv4 or IPv6 must be enabled")
    return ipv4, ipv6


def _sort(configs: Sequence[IPAMConfig], several: bool) -> dict[int, list[IPAMConfig]]:
    """The configurations by IP version. Without `several`, there is at most one for each version."""
    found: dict[int, list[IPAMConfig]] = {4: [], 6: []}
    for config in configs:
        text = config.subnet or config.gateway or config.ip_range
        version = 6 if ":" in text else 4
        if found[version] and not several:
            raise InvalidParameter("bridge driver doesn't support multiple subnets")
        found[version].append(config)
    return found


def _one(version: int, config: IPAMConfig, choice: Choice) -> SubnetRecord:
    size = None
    if config.subnet:
        subnet = parse_subnet(config.subnet)
        if not int(subnet.network_address):  # "0.0.0.0/24", "::/64": any subnet of this size
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


def choose_subnets(
    ipv4: bool, ipv6: bool, configs: Sequence[IPAMConfig], choice: Choice, *, several: bool = False
) -> tuple[SubnetRecord, ...]:
    """The network's subnets, IPv4 first. `several`: the driver allows more than one subnet of each IP version. Raises
    `InvalidParameter` or `Forbidden` with Docker's messages."""
    given = _sort(configs, several)
    if given[6] and not ipv6:
        raise InvalidParameter("IPv6 is not enabled on this network, but it has an IPv6 subnet")
    if given[4] and not ipv4:
        raise InvalidParameter("IPv4 is not enabled on this network, but it has an IPv4 subnet")
    found: list[SubnetRecord] = []
    for version, wanted in ((4, ipv4), (6, ipv6)):
        for config in given[version] or [IPAMConfig()] if wanted else ():
            # The subnets of one network may not overlap each other either
            taken = [*choice.taken, *(parse_subnet(each.subnet) for each in found)]
            found.append(_one(version, config, choice._replace(taken=taken)))
    return tuple(found)
