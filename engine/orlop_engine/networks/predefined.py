"""The predefined networks `bridge`, `host`, `none`. Their rows are updated from daemon.json at each start of the daemon;
their ids do not change."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Sequence

import msgspec

from orlop_engine.config import Config, defaults
from orlop_sdk import InvalidParameter

from . import host
from .creation import Choice, address_pools, choose_subnets
from .ipam import AddressPool, parse_subnet
from .records import GATEWAY_AUXILIARIES, NetworkRecord, SubnetRecord
from .state import new_id

__all__ = ["PREDEFINED", "check", "predefined_records"]

PREDEFINED = frozenset(defaults.PREDEFINED_NETWORKS)
_BRIDGE = "com.docker.network.bridge."


def _word(value: bool) -> str:
    return "true" if value else "false"


def _bridge_options(config: Config) -> dict[str, str]:
    return {
        _BRIDGE + "default_bridge": "true",
        _BRIDGE + "enable_icc": _word(config.icc),
        _BRIDGE + "enable_ip_masquerade": _word(config.ip_masq and config.iptables),
        _BRIDGE + "host_binding_ipv4": config.ip,
        _BRIDGE + "name": config.bridge_name,
        "com.docker.network.driver.mtu": str(config.mtu),
    }


def _from_address(text: str, ip_range: str, what: str) -> SubnetRecord:
    """The subnet for `bip`, which contains both the bridge's address and its subnet."""
    try:
        interface = ipaddress.ip_interface(text)
    except ValueError as error:
        raise InvalidParameter(f"cannot use {what} {text}: not an address with a prefix length") from error
    pool = AddressPool(interface.network, str(interface.ip), ip_range)
    return SubnetRecord(str(interface.network), pool.gateway, ip_range)


def _network(text: str) -> str:
    """The network of `fixed-cidr`, which may be written with host bits, as in Docker."""
    return str(ipaddress.ip_interface(text).network) if text else ""


def _kept(held: Sequence[SubnetRecord], version: int, ip_range: str) -> SubnetRecord | None:
    """The subnet of the existing row, if it contains the range."""
    for each in held:
        if (":" in each.subnet) != (version == 6):
            continue
        if not ip_range or parse_subnet(ip_range).subnet_of(parse_subnet(each.subnet)):  # type: ignore[arg-type]
            return msgspec.structs.replace(each, ip_range=ip_range)
    return None


def _routed_by(record: SubnetRecord, config: Config) -> SubnetRecord:
    """Add the `default-gateway` of this IP family as an auxiliary address, under Docker's name. Containers use this address
    as gateway, and no container gets it as its own address."""
    wanted, name = (
        (config.default_gateway_v6, GATEWAY_AUXILIARIES[6])
        if ":" in record.subnet
        else (config.default_gateway, GATEWAY_AUXILIARIES[4])
    )
    if wanted and ipaddress.ip_address(wanted) not in ipaddress.ip_network(record.subnet):
        raise InvalidParameter(f"cannot use {wanted} as default-gateway: it is not in {record.subnet}, the bridge's subnet")
    return msgspec.structs.replace(record, auxiliary={name: wanted} if wanted else {})


def _bridge_subnets(
    config: Config, held: Sequence[SubnetRecord], choice: Callable[[], Choice], address_of: Callable[[str], str]
) -> tuple[SubnetRecord, ...]:
    """The subnets of the default bridge. They come from the first of these sources that has a subnet: daemon.json, the
    administrator's bridge, the existing row, the free subnets of the pools."""
    found: list[SubnetRecord] = []
    given = config.bip or (address_of(config.bridge) if config.bridge and config.bridge != config.default_bridge else "")
    fixed = _network(config.fixed_cidr)
    if given:
        found.append(_from_address(given, fixed, "bip"))
    elif kept := _kept(held, 4, fixed):
        found.append(kept)
    elif fixed:
        found.append(SubnetRecord(fixed, AddressPool(parse_subnet(fixed)).gateway, fixed))
    else:
        found += choose_subnets(True, False, (), choice())
    if config.ipv6:
        if config.bip6:
            found.append(_from_address(config.bip6, _network(config.fixed_cidr_v6), "bip6"))
        elif config.fixed_cidr_v6:
            pool = AddressPool(parse_subnet(_network(config.fixed_cidr_v6)))
            found.append(SubnetRecord(str(pool.subnet), pool.gateway))
        elif kept := _kept(held, 6, ""):
            found.append(kept)
        else:
            found += choose_subnets(False, True, (), choice())
    return tuple(_routed_by(record, config) for record in found)


def check(config: Config) -> None:
    """Raise `InvalidParameter` for a configuration with which the daemon cannot start, whether or not rows exist."""
    pools = address_pools(config, "")
    predefined_records(config, {}, lambda: Choice(pools, (), ()), host.bridge_address)


def predefined_records(
    config: Config,
    held: dict[str, NetworkRecord],
    choice: Callable[[], Choice],
    address_of: Callable[[str], str],
) -> list[NetworkRecord]:
    """`held`: the existing rows by name. `choice` is called only if a subnet must be chosen."""
    found = []
    for name, driver in defaults.PREDEFINED_NETWORKS.items():
        old = held.get(name)
        record = old or NetworkRecord(id=new_id(), name=name, driver=driver, created_ns=time.time_ns(), predefined=True)
        if name == defaults.DEFAULT_NETWORK:
            if not config.bridge_name:
                continue
            record = msgspec.structs.replace(
                record,
                options=_bridge_options(config),
                subnets=_bridge_subnets(config, record.subnets, choice, address_of),
                ipv6=config.ipv6,
            )
        found.append(record)
    return found
