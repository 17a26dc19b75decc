"""Turns a network as libnetwork stores it into Orlop's row."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import msgspec

from orlop_engine.networks.ipam import IPNetwork, check_overlap, parse_subnet
from orlop_engine.networks.records import NetworkRecord, SubnetRecord
from orlop_sdk import InvalidParameter
from orlop_sdk.base import parse_rfc3339

from .inventory import Network

__all__ = ["PREDEFINED", "record"]

PREDEFINED = {"bridge": "bridge", "host": "host", "none": "null"}
"""The networks that every daemon has, and their drivers."""

_SWARM_GATEWAY = "docker_gwbridge"  # a local bridge through which the services of a swarm reach other hosts
_GENERIC = "com.docker.network.generic"


class _Pool(msgspec.Struct, rename="pascal"):
    """An entry of `ipamV4Config`: the values that the user asked for."""

    preferred_pool: str = ""
    sub_pool: str = ""
    gateway: str = ""
    aux_addresses: dict[str, str] | None = None


class _Given(msgspec.Struct):
    """An entry of `ipamV4Info`: the allocated values, as JSON in a string."""

    data: str = msgspec.field(default="", name="IPAMData")


class _Data(msgspec.Struct, rename="pascal"):
    pool: str = ""
    gateway: str = ""


_pools = msgspec.json.Decoder(list[_Pool] | None).decode
_given = msgspec.json.Decoder(list[_Given] | None).decode
_data = msgspec.json.Decoder(_Data).decode


def _subnets(record: dict[str, Any], version: int) -> Iterator[SubnetRecord]:
    asked = _pools(record.get(f"ipamV{version}Config") or "null") or []
    given = _given(record.get(f"ipamV{version}Info") or "null") or []
    for index, entry in enumerate(given):
        found, pool = _data(entry.data), asked[index] if index < len(asked) else _Pool()
        subnet = pool.preferred_pool or found.pool
        yield SubnetRecord(
            str(parse_subnet(subnet)),
            pool.gateway or found.gateway.partition("/")[0],
            pool.sub_pool,
            dict(pool.aux_addresses or {}),
            chosen=bool(pool.preferred_pool),
        )


def _options(record: dict[str, Any]) -> dict[str, str]:
    generic = record.get("generic") or {}
    options = generic.get(_GENERIC) if isinstance(generic, dict) else None
    return {str(key): str(value) for key, value in options.items()} if isinstance(options, dict) else {}


def record(network: Network, drivers: Collection[str], taken: Collection[IPNetwork]) -> NetworkRecord:
    """The row of a network. Raises `InvalidParameter`, with the reason, for a network that cannot be adopted. `drivers` are
    the installed drivers, `taken` the subnets of Orlop's networks."""
    found = dict(network.record)
    predefined = PREDEFINED.get(network.name) == network.driver
    if found.get("scope", "local") not in ("", "local") or found.get("ingress") or network.name == _SWARM_GATEWAY:
        raise InvalidParameter("it is a network of a swarm")
    if found.get("configOnly") or found.get("configFrom"):
        raise InvalidParameter("configuration-only networks are not supported")
    if found.get("inDelete"):
        raise InvalidParameter("its removal was not completed")
    if network.driver not in drivers:
        raise InvalidParameter(f'its driver "{network.driver}" is not installed')
    if found.get("ipamType") not in ("default", "null", "", None):
        raise InvalidParameter(f'its IPAM driver "{found["ipamType"]}" is not supported')
    try:
        subnets = () if predefined else (*_subnets(found, 4), *_subnets(found, 6))
        for subnet in subnets:
            check_overlap(parse_subnet(subnet.subnet), taken)
        return NetworkRecord(
            id=network.id,
            name=network.name,
            driver=network.driver,
            created_ns=parse_rfc3339(str(found.get("created") or "")),
            subnets=subnets,
            ipam_driver=str(found.get("ipamType") or "default"),
            ipam_options=msgspec.convert(found.get("ipamOptions"), dict[str, str] | None),
            options=_options(found),
            labels=msgspec.convert(found.get("labels") or {}, dict[str, str]),
            ipv4=bool(found.get("enableIPv4", True)),
            ipv6=bool(found.get("enableIPv6")),
            internal=bool(found.get("internal")),
            attachable=bool(found.get("attachable")),
            predefined=predefined,
        )
    except (msgspec.MsgspecError, ValueError, TypeError) as error:
        raise InvalidParameter(f"it is not understood: {error}") from error
