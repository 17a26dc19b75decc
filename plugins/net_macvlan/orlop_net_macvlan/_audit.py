"""Comparison of the host's parents and the containers' links with the engine's records. This module does no I/O.

`Drift.note` tells the driver's `repair` what to do. "parent NAME": remove this link of the host. "network ID": make the
network's parent, or set it up. "link GROUP NAMESPACE": remove this link from a container. "endpoint ID": make the endpoint's
link again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from orlop_sdk import Drift, Endpoint, EndpointState
from orlop_sdk.networking.netlink import LinkInfo

from ._links import Found
from ._network import Network

__all__ = ["Host", "Wanted", "compare_links", "compare_parents", "endpoint_fault", "stray_parents"]


class Host(NamedTuple):
    """The state of the host: its links by name, the names of the parents that the driver made, and the links of
    containers."""

    links: Mapping[str, LinkInfo]
    parents: Collection[str]
    endpoints: Collection[Found]


class Wanted(NamedTuple):
    """The engine's records: networks by id, and endpoints with their state. Without `complete`, a network is missing because
    its options are invalid, so the parents in use are not known."""

    networks: Mapping[str, Network]
    endpoints: Collection[tuple[Endpoint, EndpointState]]
    complete: bool = True


def stray_parents(parents: Collection[str], wanted: Wanted) -> list[str]:
    """The parents that no network needs. Empty if the parents in use are not known."""
    needed = {network.parent for network in wanted.networks.values()}
    return sorted(set(parents) - needed) if wanted.complete else []


def compare_parents(host: Host, wanted: Wanted) -> Iterator[Drift]:
    for name in stray_parents(host.parents, wanted):
        yield Drift("stray", f"link {name}", "is the parent of no network", "remove it", name, f"parent {name}")
    for network in wanted.networks.values():
        link = host.links.get(network.parent)
        if link is None:
            ours = not network.given or "." in network.parent
            text = f"is the parent of network {network.id[:12]} and is missing"
            repair, note = ("make it", f"network {network.id}") if ours else ("", "")
            yield Drift("missing", f"link {network.parent}", text, repair, network.id, note)
        elif not link.up:
            ours = network.parent in host.parents
            text = f"is the parent of network {network.id[:12]} and is down"
            repair, note = ("set it up", f"network {network.id}") if ours else ("", "")
            yield Drift("damaged", f"link {network.parent}", text, repair, network.id, note)


def compare_links(host: Host, wanted: Wanted) -> Iterator[Drift]:
    known = {endpoint.id for endpoint, _ in wanted.endpoints}
    by_endpoint = {found.ident: found for found in host.endpoints if found.ident}
    for found in host.endpoints:
        if found.ident not in known:
            text = f"belongs to endpoint {found.ident[:12]}, which does not exist" if found.ident else "is incomplete"
            note = f"link {found.link.group} {found.namespace_id}"
            name = f"link {found.link.name} in network namespace {found.namespace_id}"
            yield Drift("stray", name, text, "remove it", found.ident, note)
    for endpoint, _ in wanted.endpoints:
        network = wanted.networks.get(endpoint.network.id)
        fault = endpoint_fault(by_endpoint.get(endpoint.id), network, host) if network else ""
        if fault:
            where = f"connects container {endpoint.container_id[:12]} to {endpoint.network.name}"
            kind = "missing" if endpoint.id not in by_endpoint else "damaged"
            text = f"{where} and is missing" if kind == "missing" else f"{where}, but {fault}"
            name = f"link {endpoint.ifname} of container {endpoint.container_id[:12]}"
            yield Drift(kind, name, text, "make it again, in the running container", endpoint.id, f"endpoint {endpoint.id}")


def endpoint_fault(found: Found | None, network: Network, host: Host) -> str:
    """The fault of a container's link; "" if it has none. A link that is down is not reported: a process of the container
    with CAP_NET_ADMIN may set it down."""
    if found is None:
        return "is missing"
    parent = host.links.get(network.parent)
    if parent is not None and found.link.parent != parent.ifindex:
        return f"is not on {network.parent}"
    return ""
