"""Parsing of a `NetworkSpec` into a network with validated options. This module does no I/O.

Options, defaults and messages are those of Docker (libnetwork/drivers/macvlan and ipvlan).
"""

from __future__ import annotations

from struct import Struct

import msgspec

from orlop_sdk import Endpoint, InvalidParameter, NetworkSpec
from orlop_sdk.networking.netlink import attribute
from orlop_sdk.numbers import natural

__all__ = ["Kind", "Network", "Vlan", "at_gateway", "parse_vlan", "read_network"]

_MTU = "com.docker.network.driver.mtu"
_U32, _U16 = Struct("=I"), Struct("=H")
# linux/if_link.h
_IFLA_MACVLAN_MODE, _IFLA_IPVLAN_MODE, _IFLA_IPVLAN_FLAGS = 1, 1, 2
_MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
_IPVLAN_MODES = {"l2": 0, "l3": 1, "l3s": 2}
_IPVLAN_FLAGS = {"bridge": 0, "private": 1, "vepa": 2}


class Kind(msgspec.Struct, frozen=True):
    """What distinguishes the two drivers. If a network has no option `parent`, the name of its parent begins with
    `prefix`."""

    name: str
    prefix: str


class Network(msgspec.Struct, frozen=True):
    """A network with validated options. `given`: the user named the parent. `data` are the attributes of a new link's
    IFLA_INFO_DATA. `exclusive`: no other network may use the parent. `direct`: containers have no gateway; every address is
    reached directly through the link. `mtu` 0 means the parent's."""

    id: str
    parent: str
    given: bool
    data: bytes
    exclusive: bool = False
    direct: bool = False
    mtu: int = 0


class Vlan(msgspec.Struct, frozen=True):
    """A VLAN link: `name` is LOWER.NUMBER."""

    name: str
    lower: str
    number: int


def parse_vlan(name: str) -> Vlan:
    """Parse the name of a parent that does not exist on the host. Raises `InvalidParameter`."""
    if "." not in name:
        raise InvalidParameter(f"invalid subinterface vlan name {name}, example formatting is eth0.10")
    lower, _, text = name.partition(".")
    if "." in text:
        raise InvalidParameter(
            f"required interface name format is: name.vlan_id, ex. eth0.10 for vlan 10, instead received {name}"
        )
    if not (text.isascii() and text.removeprefix("-").isdecimal()):
        raise InvalidParameter(f"unable to parse a valid vlan id from: {text} (ex. eth0.10 for vlan 10)")
    number = int(text) if len(text) < 10 else -1
    if not 1 <= number <= 4094:
        raise InvalidParameter(f"vlan id must be between 1-4094, received: {text}")
    return Vlan(name, lower, number)


def _mtu(network: NetworkSpec) -> int:
    """The MTU option; 0 means the parent's. The minimum is 68 for IPv4 (RFC 791) and 1280 for IPv6 (RFC 8200)."""
    value = network.options.get(_MTU, "") or "0"
    if (mtu := natural(value, 65535)) is None:
        raise InvalidParameter(f"failed to parse {_MTU} value: {value!r} (invalid syntax)")
    if 0 < mtu < 68:
        raise InvalidParameter(f"failed to parse {_MTU} value: {mtu} (must be at least 68)")
    if 0 < mtu < 1280 and any(":" in each.subnet for each in network.subnets):
        raise InvalidParameter(f"failed to parse {_MTU} value: {mtu} (IPv6 needs at least 1280)")
    return mtu


def _parent(network: NetworkSpec, kind: Kind) -> str:
    name = network.options.get("parent", "")
    if name == "lo":
        raise InvalidParameter(f"loopback interface is not a valid {kind.name} parent link")
    if len(name.encode()) > 15 or "/" in name or not name.isprintable() or " " in name or name in (".", ".."):
        raise InvalidParameter(f"invalid parent {name!r}: not a link name")
    return name or f"{kind.prefix}-{network.id[:12]}"


def _macvlan_data(network: NetworkSpec) -> tuple[str, bytes]:
    mode = network.options.get("macvlan_mode", "") or "bridge"
    if mode not in _MACVLAN_MODES:
        raise InvalidParameter(f"requested macvlan mode '{mode}' is not valid, 'bridge' mode is the macvlan driver default")
    return mode, attribute(_IFLA_MACVLAN_MODE, _U32.pack(_MACVLAN_MODES[mode]))


def _ipvlan_data(network: NetworkSpec) -> tuple[str, bytes]:
    mode = network.options.get("ipvlan_mode", "") or "l2"
    if mode not in _IPVLAN_MODES:
        raise InvalidParameter(f"requested ipvlan mode '{mode}' is not valid, 'l2' mode is the ipvlan driver default")
    flag = network.options.get("ipvlan_flag", "") or "bridge"
    if flag not in _IPVLAN_FLAGS:
        raise InvalidParameter(f"requested ipvlan flag '{flag}' is not valid, 'bridge' is the ipvlan driver default")
    data = attribute(_IFLA_IPVLAN_MODE, _U16.pack(_IPVLAN_MODES[mode]))
    return mode, data + attribute(_IFLA_IPVLAN_FLAGS, _U16.pack(_IPVLAN_FLAGS[flag]))


def read_network(network: NetworkSpec, kind: Kind) -> Network:
    """Parse a network. Raises `InvalidParameter` with Docker's message for an option with an invalid value. Unknown options
    are ignored."""
    mode, data = _macvlan_data(network) if kind.name == "macvlan" else _ipvlan_data(network)
    return Network(
        id=network.id,
        parent=_parent(network, kind),
        given=bool(network.options.get("parent")),
        data=data,
        exclusive=mode == "passthru",
        direct=mode in ("l3", "l3s"),
        mtu=_mtu(network),
    )


def at_gateway(endpoint: Endpoint, network: Network) -> Endpoint:
    """The endpoint with the gateways that its container uses. In the modes l3 and l3s, the host is the container's router,
    so the container's default route has no gateway. A network without the option `parent` is not connected to other
    networks, so its containers have no default route."""
    if network.given and not network.direct:
        return endpoint

    def gateway(address: str, given: str) -> str:
        return "" if not (given and network.given) else "::" if ":" in address else "0.0.0.0"

    addresses = [msgspec.structs.replace(each, gateway=gateway(each.address, each.gateway)) for each in endpoint.addresses]
    return msgspec.structs.replace(endpoint, addresses=tuple(addresses))
