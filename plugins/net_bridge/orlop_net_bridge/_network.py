"""Parsing of a `NetworkSpec` into a bridge with validated options. This module does no I/O."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence

import msgspec

from orlop_sdk import InvalidParameter, NetworkContext, NetworkSpec
from orlop_sdk.numbers import natural

__all__ = ["Bridge", "read_network"]

_PREFIX = "com.docker.network."
# These names are inserted into nft commands, so they must not contain nft syntax.
_LINK_NAME = re.compile(r"[A-Za-z0-9_.-]{1,15}", re.ASCII)
_INTERFACE_PREFIX = re.compile(r"[A-Za-z0-9_.-]{1,12}", re.ASCII)
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})


class Bridge(msgspec.Struct, frozen=True):
    """A network with validated options. `addresses` are the addresses of the bridge ("172.17.0.1/16"). `mtu` 0 means the
    kernel's default."""

    network_id: str
    name: str
    addresses: tuple[str, ...] = ()
    subnets: tuple[str, ...] = ()
    mtu: int = 0
    icc: bool = True
    masquerade: bool = True
    internal: bool = False
    unprotected: frozenset[int] = frozenset()
    """IP versions (4, 6) for which containers can be reached from outside without published ports."""
    routed: frozenset[int] = frozenset()
    """IP versions whose packets are routed between containers and other hosts without a translation of addresses."""
    snat: tuple[tuple[str, str], ...] = ()
    """(subnet, source address) for SNAT instead of masquerading."""


def _flag(options: Mapping[str, str], key: str, default: bool) -> bool:
    value = options.get(_PREFIX + key, "")
    if value in _TRUE:
        return True
    if value in _FALSE:
        return False
    if value:
        raise InvalidParameter(f"failed to parse {_PREFIX}{key} value: {value!r} (invalid syntax)")
    return default


def _mtu(options: Mapping[str, str], subnets: Sequence[str], default: int) -> int:
    """The MTU option; 0 means the kernel's default. The minimum is 68 for IPv4 (RFC 791) and 1280 for IPv6 (RFC 8200)."""
    value = options.get(_PREFIX + "driver.mtu", "") or "0"
    if (given := natural(value, 65535)) is None:
        raise InvalidParameter(f"failed to parse {_PREFIX}driver.mtu value: {value!r} (invalid syntax)")
    mtu = given or default
    if 0 < mtu < 68:
        raise InvalidParameter(f"failed to parse {_PREFIX}driver.mtu value: {mtu} (must be at least 68)")
    if 0 < mtu < 1280 and any(":" in subnet for subnet in subnets):
        raise InvalidParameter(f"failed to parse {_PREFIX}driver.mtu value: {mtu} (IPv6 needs at least 1280)")
    return mtu


def _check_unused(options: Mapping[str, str]) -> None:
    """Validate the options that this driver does not use. The engine uses some of these options; other options have no
    effect."""
    binding = options.get(_PREFIX + "bridge.host_binding_ipv4", "")
    if binding:
        _address(_PREFIX + "bridge.host_binding_ipv4", binding, 4)
    prefix = options.get(_PREFIX + "container_iface_prefix", "")
    if prefix and not _INTERFACE_PREFIX.fullmatch(prefix):
        raise InvalidParameter(
            f"failed to parse {_PREFIX}container_iface_prefix value: {prefix!r} (not part of a link name)"
        )
    if options.get(_PREFIX + "bridge.trusted_host_interfaces"):
        raise InvalidParameter(f"{_PREFIX}bridge.trusted_host_interfaces is not supported")


def _address(key: str, value: str, version: int) -> str:
    try:
        found = ipaddress.ip_address(value)
    except ValueError as error:
        raise InvalidParameter(f"failed to parse {key} value: {value!r} ({error})") from error
    if found.version != version:
        raise InvalidParameter(f"failed to parse {key} value: {value!r} (not an IPv{version} address)")
    return str(found)


def _link_name(network: NetworkSpec, context: NetworkContext) -> str:
    name = network.options.get(_PREFIX + "bridge.name", "")
    if not name and _flag(network.options, "bridge.default_bridge", False):
        name = context.default_bridge
    name = name or "br-" + network.id[:12]
    if not _LINK_NAME.fullmatch(name) or name in (".", ".."):
        raise InvalidParameter(f"failed to parse {_PREFIX}bridge.name value: {name!r} (not a link name)")
    return name


def _gateway_modes(options: Mapping[str, str], internal: bool) -> dict[int, str]:
    """The gateway mode of each IP version."""
    found = {}
    for family in (4, 6):
        key = f"bridge.gateway_mode_ipv{family}"
        mode = options.get(_PREFIX + key, "") or "nat"
        if mode not in ("nat", "nat-unprotected", "routed", "isolated"):
            raise InvalidParameter(f"failed to parse {_PREFIX}{key} value: {mode!r} (unsupported gateway mode)")
        if mode == "isolated" and not internal:
            raise InvalidParameter("gateway mode 'isolated' can only be used for an internal network")
        found[family] = mode
    return found


def _host_sources(options: Mapping[str, str], subnets: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    found = []
    for subnet in subnets:
        version = ipaddress.ip_network(subnet).version
        key = f"{_PREFIX}host_ipv{version}"
        if value := options.get(key, ""):
            found.append((subnet, _address(key, value, version)))
    return tuple(found)


def _wants_address(options: Mapping[str, str], version: int) -> bool:
    if options.get(f"{_PREFIX}bridge.gateway_mode_ipv{version}") == "isolated":
        return False
    return version == 6 or not _flag(options, "bridge.inhibit_ipv4", False)


def read_network(network: NetworkSpec, context: NetworkContext) -> Bridge:
    """Parse a network. Raises `InvalidParameter` with Docker's message for an option with an invalid value. Unknown options
    are ignored."""
    options = network.options
    addresses, subnets = [], []
    for each in network.subnets:
        parsed = ipaddress.ip_network(each.subnet)
        subnets.append(str(parsed))
        if each.gateway and _wants_address(options, parsed.version):
            addresses.append(f"{ipaddress.ip_address(each.gateway)}/{parsed.prefixlen}")
    snat = _host_sources(options, tuple(subnets))
    modes = _gateway_modes(options, network.internal)
    _check_unused(options)
    return Bridge(
        network_id=network.id,
        name=_link_name(network, context),
        addresses=tuple(addresses),
        subnets=tuple(subnets),
        mtu=_mtu(options, subnets, context.mtu if _flag(options, "bridge.default_bridge", False) else 0),
        icc=_flag(options, "bridge.enable_icc", True),
        masquerade=_flag(options, "bridge.enable_ip_masquerade", True),
        internal=network.internal,
        unprotected=frozenset(family for family, mode in modes.items() if mode == "nat-unprotected"),
        routed=frozenset(family for family, mode in modes.items() if mode == "routed"),
        snat=snat,
    )
