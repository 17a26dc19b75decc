"""The drivers' links, by netlink. Only the network thread (see `orlop_sdk.networking.Worker`) calls this module.

Links of containers are in other network namespaces. The kernel gives a namespace an id in the host's namespace (see
ip-netns(8), `list-id`), and lists and deletes links by this id. So the driver finds the links of all containers, even if an
earlier daemon has made them. The group of a container's link is derived from the endpoint and set when the link is made. The
alias follows in a second request; a link with the name `oNNNNNNNN` is incomplete, because a daemon died before this request.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import sys
from collections.abc import Iterator
from typing import NamedTuple

from orlop_sdk import Conflict, DriverError, Endpoint, InvalidParameter, linux
from orlop_sdk.networking import Refused, RouteSocket, netlink, route_inside, set_up_inside

from ._network import Kind, Network, Vlan, at_gateway, parse_vlan

__all__ = ["Found", "Links"]

_HALF_MADE = re.compile(r"o[0-9a-f]{8}")
_GONE = frozenset({errno.ENODEV, errno.ENXIO, errno.ENOENT, errno.EINVAL})
"""EINVAL: no namespace has this id any more."""
_IFLA_VLAN_ID = 1


class Found(NamedTuple):
    """A link of this driver in the namespace `namespace_id`. `ident` is the id of the endpoint; "" if the link is
    incomplete."""

    link: netlink.LinkInfo
    namespace_id: int
    ident: str


@contextlib.contextmanager
def _errors(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DriverError(f"cannot {what}: {error.strerror or error}") from error


class Links:
    """Changes links through a netlink socket in the host's namespace. `owner` is the prefix of aliases."""

    def __init__(self, owner: str, kind: Kind) -> None:
        self._kind = kind
        self._parents = f"{owner}:{kind.name}-parent:"
        self._endpoints = f"{owner}:{kind.name}-endpoint:"
        self._socket = RouteSocket()

    def close(self) -> None:
        self._socket.close()

    # --- parents ----------------------------------------------------------------------------------------------------

    def all(self) -> list[netlink.LinkInfo]:
        """All links of the host."""
        with _errors("list links"):
            return self._socket.links()

    def parent(self, name: str) -> netlink.LinkInfo | None:
        return next((link for link in self.all() if link.name == name), None)

    def is_ours(self, link: netlink.LinkInfo) -> bool:
        return link.alias == self._parents + link.name

    def ensure_parent(self, network: Network) -> None:
        """Make a missing parent: a VLAN link, or the link of a network without the option `parent`. Set up a parent of this
        driver that is down."""
        before = self.parent(network.parent)
        try:
            found = before or self._add_parent_of(network)
            if self.is_ours(found) and not found.up:
                with _errors(f"enable {network.parent}, the parent link"):
                    self._socket.change(netlink.set_up(found.ifindex))
        except BaseException:
            if before is None:  # for example, a VLAN link cannot be enabled while its lower link is down
                with contextlib.suppress(DriverError):
                    self.delete_parent(network.parent)
            raise

    def _add_parent_of(self, network: Network) -> netlink.LinkInfo:
        return self._add_vlan(parse_vlan(network.parent)) if network.given else self._add_empty(network.parent)

    def _add_vlan(self, vlan: Vlan) -> netlink.LinkInfo:
        lower = self.parent(vlan.lower)
        if lower is None:
            raise InvalidParameter(f"-o parent interface was not found on the host: {vlan.lower}")
        data = netlink.attribute(_IFLA_VLAN_ID, vlan.number.to_bytes(2, sys.byteorder))
        try:
            return self._add_parent(vlan.name, "vlan", data, lower.ifindex)
        except OSError as error:
            raise DriverError(f"failed to create {vlan.name} vlan link: {error.strerror}") from error

    def _add_empty(self, name: str) -> netlink.LinkInfo:
        """Add a link that drops all packets. Docker uses a dummy link. An ifb link drops packets as well, unless a filter of
        tc(8) redirects them to it."""
        with _errors(f"create {name}, a parent link without a network (set the option parent=LINK)"):
            try:
                return self._add_parent(name, "dummy")
            except Refused as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
            return self._add_parent(name, "ifb")

    def _add_parent(self, name: str, kind: str, data: bytes = b"", lower: int = 0) -> netlink.LinkInfo:
        self._socket.change(netlink.add_link(name, kind, data, parent=lower, group=_group(self._parents + name)))
        found = self.parent(name)
        if found is None:
            raise DriverError(f"cannot create link {name}: it was removed at the same time")
        self._socket.change(netlink.name_link(found.ifindex, name, self._parents + name))
        return found._replace(alias=self._parents + name)

    def delete_parent(self, name: str) -> None:
        """Remove a parent if this driver made it."""
        found = self.parent(name)
        if found is not None and (self.is_ours(found) or self._is_half_made_parent(found)):
            with _errors(f"delete link {name}"):
                self._delete(netlink.delete_link(name))

    def _is_half_made_parent(self, link: netlink.LinkInfo) -> bool:
        return not link.alias and link.group == _group(self._parents + link.name)

    def parents(self) -> list[netlink.LinkInfo]:
        """The parents that this driver made."""
        return [link for link in self.all() if self.is_ours(link) or self._is_half_made_parent(link)]

    # --- endpoints --------------------------------------------------------------------------------------------------

    def connect(self, endpoint: Endpoint, network: Network) -> tuple[str, int]:
        """Make the container's link; returns its MAC address and the id of the container's namespace. On failure no link
        remains."""
        what = f"connect container {endpoint.container_id[:12]} to network {endpoint.network.name}"
        parent = self.parent(network.parent)
        if parent is None:
            raise DriverError(f"cannot {what}: parent {network.parent} does not exist")
        with _errors(what):
            namespace = os.open(endpoint.netns, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with _errors(what):
                ident = self._socket.namespace_id(namespace)
                self._delete(netlink.delete_group(self.group(endpoint.id), ident))  # left by an attach that was interrupted
            try:
                return self._add(endpoint, network, parent, namespace, what), ident
            except BaseException:
                with _errors(what):
                    self._delete(netlink.delete_group(self.group(endpoint.id), ident))
                raise
        finally:
            os.close(namespace)

    def _add(self, endpoint: Endpoint, network: Network, parent: netlink.LinkInfo, namespace: int, what: str) -> str:
        group = self.group(endpoint.id)
        name = f"o{group:08x}"
        request = netlink.add_link(
            name,
            self._kind.name,
            network.data,
            parent=parent.ifindex,
            namespace=namespace,
            mac=endpoint.mac,
            mtu=network.mtu,
            group=group,
        )
        try:
            self._socket.change(request)
        except OSError as error:
            raise DriverError(f"cannot {what}: {self._reason(error, parent)}") from error
        try:
            with linux.in_network_namespace(namespace):
                with RouteSocket() as inside:
                    made = next(link for link in inside.links() if link.group == group)
                    inside.change(netlink.name_link(made.ifindex, endpoint.ifname, self._endpoints + endpoint.id))
                set_up_inside(at_gateway(endpoint, network))
        except OSError as error:
            if error.errno == errno.EEXIST:
                raise Conflict(f"cannot {what}: it has a link named {endpoint.ifname}") from error
            raise DriverError(f"cannot {what}: {self._reason(error, parent)}") from error
        return made.mac if self._kind.name == "macvlan" else ""

    def _reason(self, error: OSError, parent: netlink.LinkInfo) -> str:
        """Why the kernel refused to make a link on this parent, as text for users."""
        kind = self._kind.name
        reasons = {
            errno.EOPNOTSUPP: f"failed to create the {kind} port: this kernel has no {kind} links",
            errno.EINVAL: f"failed to create the {kind} port: parent {parent.name} cannot have this link "
            f"(mode passthru allows one container)",
            errno.EBUSY: f"failed to create the {kind} port: parent {parent.name} is used by a bridge or another driver",
            errno.EADDRINUSE: "its MAC or IP address is in use on the parent",
        }
        return reasons.get(error.errno or 0) or str(error.strerror or error)

    @staticmethod
    def reroute(endpoint: Endpoint, network: Network) -> None:
        """Set or remove the namespace's default routes through the endpoint, as `default_route` says."""
        with _errors(f"route container {endpoint.container_id[:12]} by network {endpoint.network.name}"):
            namespace = os.open(endpoint.netns, os.O_RDONLY | os.O_CLOEXEC)
            try:
                with linux.in_network_namespace(namespace):
                    route_inside(at_gateway(endpoint, network))
            finally:
                os.close(namespace)

    def group(self, endpoint_id: str) -> int:
        return _group(self._endpoints + endpoint_id)

    def namespace_id(self, netns: str) -> int | None:
        """The id of a container's namespace; None if the namespace does not exist."""
        try:
            namespace = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            with _errors("find the network namespace of a container"):
                return self._socket.namespace_id(namespace)
        finally:
            os.close(namespace)

    def disconnect(self, endpoint_id: str, namespace_id: int | None) -> None:
        """Delete the endpoint's link. Without `namespace_id`, the link is searched for in all namespaces."""
        with _errors(f"disconnect endpoint {endpoint_id[:12]}"):
            for ident in self._socket.namespace_ids() if namespace_id is None else [namespace_id]:
                self._delete(netlink.delete_group(self.group(endpoint_id), ident))

    def _delete(self, request: netlink.Request) -> None:
        try:
            self._socket.change(request)
        except Refused as error:
            if error.errno not in _GONE:
                raise

    def endpoints(self) -> list[Found]:
        """The links of this driver in the namespaces of containers."""
        found = []
        with _errors("list links of containers"):
            for ident in self._socket.namespace_ids():
                try:
                    links = self._socket.links(ident)
                except Refused as error:
                    if error.errno not in _GONE:
                        raise
                    continue
                found += [Found(link, ident, name) for link in links if (name := self._ident(link)) is not None]
        return found

    def _ident(self, link: netlink.LinkInfo) -> str | None:
        if link.kind != self._kind.name:
            return None
        if link.alias.startswith(self._endpoints):
            return link.alias.removeprefix(self._endpoints)
        half_made = not link.alias and _HALF_MADE.fullmatch(link.name) and link.name == f"o{link.group:08x}"
        return "" if half_made else None

    def delete_found(self, group: int, namespace_id: int) -> None:
        with _errors("delete a link of a container"):
            self._delete(netlink.delete_group(group, namespace_id))


def _group(alias: str) -> int:
    """The link group that belongs to an alias; not 0, because 0 is the default group."""
    return int.from_bytes(hashlib.sha256(alias.encode()).digest()[:4], "big") & 0x7FFF_FFFF | 1
