"""Mutants of `FakeNetwork`. The fake changes nothing on the host, so no mutant makes wrong links or routes."""

from __future__ import annotations

import os
from typing import Any

from msgspec.structs import replace

from orlop_sdk import Conflict, Drift, DriverError, Endpoint, EndpointState, NetworkCapabilities
from orlop_sdk.testing.network import FakeNetwork

from ._change import Mutant, after, change, fail, nothing, replaced

__all__ = ["MUTANTS"]


async def _twice(original: Any, self: Any, network: Any) -> None:
    if network.id in self.networks:
        raise Conflict("exists")
    await original(network)


async def _needs_network(original: Any, self: Any, network: Any) -> None:
    if network.id not in self.networks:
        raise DriverError("no such network")
    await original(network)


async def _needs_endpoint(original: Any, self: Any, endpoint: Endpoint, state: EndpointState) -> None:
    if endpoint.id not in self.endpoints:
        raise DriverError("no such endpoint")
    await original(endpoint, state)


async def _needs_namespace(original: Any, self: Any, endpoint: Endpoint, state: EndpointState) -> None:
    if not os.path.exists(endpoint.netns):
        raise DriverError("no namespace")
    await original(endpoint, state)


async def _once(original: Any, self: Any, endpoint: Endpoint) -> Any:
    if endpoint.id in self.endpoints:
        raise Conflict("exists")
    return await original(endpoint)


async def _refuses_link_local(original: Any, self: Any, endpoint: Endpoint) -> Any:
    if endpoint.link_local:
        raise DriverError("no such addresses")
    return await original(endpoint)


async def _steals(original: Any, self: Any, endpoint: Endpoint) -> Any:
    for key in self._keys(endpoint):
        self.ports.pop(key, None)
    return await original(endpoint)


async def _leaves_ports(original: Any, self: Any, endpoint: Endpoint) -> Any:
    try:
        return await original(endpoint)
    except Conflict:
        for key in self._keys(endpoint):
            self.ports.setdefault(key, endpoint.id + "!")
        raise


async def _forgets_ports(original: Any, self: Any, endpoint: Endpoint, state: EndpointState) -> None:
    await original(replace(endpoint, ports=()), state)


async def _any_attach(original: Any, self: Any, endpoint: Endpoint) -> Any:
    return await original(replace(endpoint, ports=()))


async def _frees_nothing(original: Any, self: Any, endpoint: Endpoint, state: EndpointState) -> None:
    self.endpoints.pop(endpoint.id, None)


async def _detaches_another(original: Any, self: Any, endpoint: Endpoint, state: EndpointState) -> None:
    others = [other for other in self.endpoints.values() if other.id != endpoint.id]
    await original(others[0] if others else endpoint, state)


async def _restores_nothing(original: Any, self: Any, networks: Any, endpoints: Any) -> None:
    await original(networks, ())


async def _repairs_once(original: Any, self: Any, found: Drift) -> None:
    if found.id not in self.endpoints:
        raise DriverError("it is gone")
    await original(found)


async def _only_strays(original: Any, self: Any, networks: Any, endpoints: Any) -> Any:
    return [replace(found, kind="stray") for found in await original(networks, endpoints)]


async def _overlooks(kind: str, original: Any, networks: Any, endpoints: Any) -> Any:
    return [found for found in await original(networks, endpoints) if found.kind != kind]


_SHARED: dict[tuple[str, str, int], str] = {}


def _one_host(context: Any) -> FakeNetwork:
    _SHARED.clear()
    return FakeNetwork(context, shared=_SHARED)


_NETWORKS = "test_network_calls_can_be_repeated"
_ENDPOINT = "test_endpoint_is_attached_and_detached"
_ENDED = "test_detach_after_the_container_ended_frees_its_ports"
_LINK_LOCAL = "test_link_local_addresses_are_added"
_TAKEN = "test_taken_port_is_a_conflict_and_leaves_nothing"
_UPDATE = "test_update_moves_ports_and_default_route"
_DIFFER = "test_ports_differ_by_protocol_and_address"
_AUDIT = "test_audit_reports_stray_and_missing_objects"
_RESTORE = "test_restore_keeps_running_endpoints_and_removes_others"

MUTANTS = (
    Mutant("lacks `update`", "test_is_a_driver", replaced(FakeNetwork, update=None)),
    Mutant(
        "has an unknown sandbox",
        "test_is_a_driver",
        replaced(FakeNetwork, capabilities=replace(NetworkCapabilities(), sandbox="other")),
    ),
    Mutant(
        "publishes ports without addresses",
        "test_is_a_driver",
        replaced(FakeNetwork, capabilities=NetworkCapabilities(addresses=False, publishes=True)),
    ),
    Mutant("refuses an existing network", _NETWORKS, change(FakeNetwork, "create_network", _twice)),
    Mutant("deletes only existing networks", _NETWORKS, change(FakeNetwork, "delete_network", _needs_network)),
    Mutant(
        "ignores the MAC address",
        _ENDPOINT,
        change(FakeNetwork, "attach", lambda o, s, e: after(o(e), lambda state: replace(state, mac="02:00:00:00:00:09"))),
    ),
    Mutant("claims link-local addresses and refuses them", _LINK_LOCAL, change(FakeNetwork, "attach", _refuses_link_local)),
    Mutant("detaches once", _ENDPOINT, change(FakeNetwork, "detach", _needs_endpoint)),
    Mutant("attaches nothing", _ENDPOINT, replaced(FakeNetwork, attach=nothing)),
    Mutant("needs the namespace of an ended container", _ENDED, change(FakeNetwork, "detach", _needs_namespace)),
    Mutant("never frees ports", _ENDED, change(FakeNetwork, "detach", _frees_nothing)),
    Mutant(
        "deletes the wrong endpoint", "test_detach_leaves_other_endpoints", change(FakeNetwork, "detach", _detaches_another)
    ),
    Mutant("attaches once", "test_attach_can_be_repeated_after_a_crash", change(FakeNetwork, "attach", _once)),
    Mutant("takes ports from other endpoints", _TAKEN, change(FakeNetwork, "attach", _steals)),
    Mutant("leaves ports of a failed attach", _TAKEN, change(FakeNetwork, "attach", _leaves_ports)),
    Mutant("publishes nothing", _TAKEN, change(FakeNetwork, "attach", _any_attach)),
    Mutant("updates nothing", _UPDATE, replaced(FakeNetwork, update=nothing)),
    Mutant("unpublishes ports at an update", _UPDATE, change(FakeNetwork, "update", _forgets_ports)),
    Mutant(
        "ignores protocols",
        _DIFFER,
        replaced(FakeNetwork, _keys=staticmethod(lambda e: [("", p.host_ip, p.host_port) for p in e.ports])),
    ),
    Mutant(
        "ignores host addresses",
        _DIFFER,
        replaced(FakeNetwork, _keys=staticmethod(lambda e: [(p.protocol, "", p.host_port) for p in e.ports])),
    ),
    Mutant("overlooks strays", _AUDIT, change(FakeNetwork, "audit", lambda o, s, *a: _overlooks("stray", o, *a))),
    Mutant("overlooks missing objects", _AUDIT, change(FakeNetwork, "audit", lambda o, s, *a: _overlooks("missing", o, *a))),
    Mutant("confuses strays and missing objects", _AUDIT, change(FakeNetwork, "audit", _only_strays)),
    Mutant("repairs nothing", _AUDIT, replaced(FakeNetwork, repair=nothing)),
    Mutant("repairs once", _AUDIT, change(FakeNetwork, "repair", _repairs_once)),
    Mutant("dumps bytes", _AUDIT, change(FakeNetwork, "dump", lambda o, s: after(o(), str.encode))),
    Mutant("forgets running endpoints at a restart", _RESTORE, change(FakeNetwork, "restore", _restores_nothing)),
    Mutant("removes nothing at a restart", _RESTORE, replaced(FakeNetwork, restore=nothing)),
    Mutant("fails at a restart", _RESTORE, replaced(FakeNetwork, restore=lambda *_: fail(DriverError("no")))),
    Mutant(
        "fails for an empty host",
        "test_two_daemons_do_not_disturb_each_other",
        replaced(FakeNetwork, restore=lambda *_: fail(DriverError("no"))),
    ),
)
