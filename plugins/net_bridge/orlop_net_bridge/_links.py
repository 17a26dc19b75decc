"""Bridges and veth pairs, by netlink. Only the network thread (see `orlop_sdk.networking.Worker`) calls this module.

Bridges and listings use pyroute2; connecting and disconnecting containers uses the faster messages of
`orlop_sdk.networking`.

Each link that the driver makes has an alias, `orlop:KIND:ID` (`orlop-INSTANCE:...`), so that a later daemon recognizes its
links and changes no other links. The request that creates a link cannot set an alias, but it can set a link group. The group
is derived from the owner's name. A link with this group and no alias is incomplete, because a daemon died before it set the
alias.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import ipaddress
import os
import secrets
import socket
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from pyroute2.iproute.linux import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from orlop_sdk import Conflict, DriverError, Endpoint, linux
from orlop_sdk.networking import Refused, RouteSocket, netlink, route_inside, set_up_inside, skip_duplicate_search

from ._audit import Link
from ._network import Bridge

__all__ = ["Links", "isolates"]

_IFF_UP = 1
_NODAD = 0x02  # IFA_F_NODAD: duplicate address detection would delay the use of an IPv6 address by a second
_GONE = frozenset({errno.ENODEV, errno.ENXIO, errno.ENOENT})


def _new_mac() -> str:
    """A random unicast, locally administered MAC address."""
    first, *rest = secrets.token_bytes(6)
    return ":".join(f"{byte:02x}" for byte in ((first & 0xFC) | 0x02, *rest))


def _mac_of(network_id: str) -> str:
    """The MAC address of a network's bridge. A bridge that is made again has the same address, because containers have
    cached this address as the address of their gateway."""
    return ":".join(f"{byte:02x}" for byte in (0x02, 0x42, *hashlib.sha256(network_id.encode()).digest()[:4]))


def _index(name: str) -> int | None:
    """The index of a link in the thread's namespace. This takes one ioctl, whereas a lookup by pyroute2 lists every link."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return None


def isolates(bridge: Bridge) -> bool:
    """Whether the bridge's ports must be isolated from each other (icc=false). They are not isolated if br_netfilter passes
    bridged packets through nftables, because the rules then enforce icc=false. Isolation also blocks packets to a published
    port that are forwarded to another port of the same bridge."""
    if bridge.icc:
        return False
    try:
        with open("/proc/sys/net/bridge/bridge-nf-call-iptables") as file:
            return file.read().strip() != "1"
    except OSError:
        return True


@contextlib.contextmanager
def _errors(what: str) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        raise DriverError(f"cannot {what}: {os.strerror(error.code)}") from error
    except OSError as error:
        raise DriverError(f"cannot {what}: {error.strerror or error}") from error


class Links:
    """Changes links through two netlink sockets on the host, one for veth pairs and one for all other operations. `owner` is
    the prefix of aliases."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._group = zlib.crc32(owner.encode()) & 0x7FFF_FFFF | 1  # not 0, because 0 is the default group
        self._pairs = RouteSocket()
        try:
            self._host = IPRoute()
        except BaseException:
            self._pairs.close()
            raise

    def close(self) -> None:
        self._pairs.close()
        self._host.close()

    # --- bridges ----------------------------------------------------------------------------------------------------

    def _bridge_alias(self, network_id: str) -> str:
        return f"{self._owner}:network:{network_id}"

    def ensure_bridge(self, bridge: Bridge) -> None:
        """Make the bridge, or correct an existing bridge. A bridge that an administrator made only receives missing
        settings."""
        with _errors(f"create bridge {bridge.name}"):
            index = _index(bridge.name)
            if index is None:
                self._host.link(
                    "add",
                    ifname=bridge.name,
                    kind="bridge",
                    address=_mac_of(bridge.network_id),
                    group=self._group,
                    **({"mtu": bridge.mtu} if bridge.mtu else {}),
                )
                index = _index(bridge.name)
                if index is None:
                    raise DriverError(f"cannot create bridge {bridge.name}: it was removed at the same time")
                self._host.link("set", index=index, ifalias=self._bridge_alias(bridge.network_id))
                ours = True
            else:
                (link,) = self._host.link("get", index=index)
                if (link.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND")) != "bridge":
                    raise Conflict(f"cannot create bridge {bridge.name}: a link of this name exists and is not a bridge")
                alias = link.get_attr("IFLA_IFALIAS") or ""
                # Also take over a bridge of another network id, because its network may have been lost together with the
                # data root.
                ours = alias.startswith(self._bridge_alias("")) or self._is_half_made(link)
                if ours and alias != self._bridge_alias(bridge.network_id):
                    self._host.link("set", index=index, ifalias=self._bridge_alias(bridge.network_id))
                if ours and bridge.mtu and link.get_attr("IFLA_MTU") != bridge.mtu:
                    self._host.link("set", index=index, mtu=bridge.mtu)
            if any(":" in address for address in bridge.addresses):
                skip_duplicate_search(bridge.name)
            self._set_bridge_addresses(index, bridge, ours)
            self._host.link("set", index=index, state="up")

    def _is_half_made(self, link: Any) -> bool:
        return not link.get_attr("IFLA_IFALIAS") and link.get_attr("IFLA_GROUP") == self._group

    def _set_bridge_addresses(self, index: int, bridge: Bridge, ours: bool) -> None:
        held = self._addresses(index)
        for address in bridge.addresses:
            if address not in held:
                self._add_address(self._host, index, address)
        if ours:  # after a change of the subnet in daemon.json, the old gateway address must be removed
            for address in held - set(bridge.addresses):
                ip, length = address.split("/")
                self._host.addr("delete", index=index, address=ip, prefixlen=int(length))

    def _addresses(self, index: int) -> set[str]:
        return {
            f"{entry.get_attr('IFA_ADDRESS')}/{entry['prefixlen']}"
            for entry in self._host.get_addr(index=index)
            if not ipaddress.ip_address(entry.get_attr("IFA_ADDRESS")).is_link_local
        }

    @staticmethod
    def _add_address(socket_: Any, index: int, address: str) -> None:
        interface = ipaddress.ip_interface(address)
        more: dict[str, Any] = {"flags": _NODAD} if interface.version == 6 else {}
        if interface.version == 4 and interface.network.prefixlen < 31:
            more["broadcast"] = str(interface.network.broadcast_address)
        socket_.addr("add", index=index, address=str(interface.ip), prefixlen=interface.network.prefixlen, **more)

    def delete_bridge(self, bridge: Bridge) -> None:
        """Remove the bridge if this driver made it."""
        with _errors(f"delete bridge {bridge.name}"):
            index = _index(bridge.name)
            if index is None:
                return
            (link,) = self._host.link("get", index=index)
            if link.get_attr("IFLA_IFALIAS") == self._bridge_alias(bridge.network_id):
                self._delete(index)

    def _delete(self, index: int) -> None:
        try:
            self._host.link("del", index=index)
        except NetlinkError as error:
            if error.code not in _GONE:
                raise

    # --- endpoints --------------------------------------------------------------------------------------------------

    def connect(self, endpoint: Endpoint, bridge: Bridge, host_link: str = "") -> tuple[str, str]:
        """Connect the namespace to the bridge by a veth pair; returns (host link, MAC). On failure the pair is removed.
        `host_link` is the name of the host end, if a lost pair is created again; by default a new name is chosen."""
        what = f"connect container {endpoint.container_id[:12]} to network {endpoint.network.name}"
        with _errors(what):
            master = _index(bridge.name)
            if master is None:
                raise DriverError(f"cannot {what}: bridge {bridge.name} does not exist")
            namespace = os.open(endpoint.netns, os.O_RDONLY | os.O_CLOEXEC)
            try:
                mac = endpoint.mac or _new_mac()
                name = self._add_pair(endpoint, bridge, master, namespace, mac, host_link)
                try:
                    self._mark(name, endpoint, bridge)
                    with linux.in_network_namespace(namespace):
                        set_up_inside(endpoint)
                except BaseException:
                    self._delete_pair(name)
                    raise
            finally:
                os.close(namespace)
        return name, mac

    @staticmethod
    def reroute(endpoint: Endpoint) -> None:
        """If `endpoint.default_route` is true, set the namespace's default routes through the endpoint; otherwise remove
        them."""
        with _errors(f"route container {endpoint.container_id[:12]} by network {endpoint.network.name}"):
            namespace = os.open(endpoint.netns, os.O_RDONLY | os.O_CLOEXEC)
            try:
                with linux.in_network_namespace(namespace):
                    route_inside(endpoint)
            finally:
                os.close(namespace)

    def _endpoint_alias(self, endpoint_id: str) -> str:
        return f"{self._owner}:endpoint:{endpoint_id}"

    def _add_pair(
        self, endpoint: Endpoint, bridge: Bridge, master: int, namespace: int, mac: str, host_link: str = ""
    ) -> str:
        """Make a pair; returns the host end's name. Names are random, because a veth with its name still exists some
        milliseconds after its namespace was destroyed."""
        again = True
        while True:
            name = host_link or "veth" + secrets.token_hex(4)[:7]
            try:
                self._pairs.change(netlink.add_veth(name, master, endpoint.ifname, namespace, mac, bridge.mtu, self._group))
                return name
            except Refused as error:
                if error.errno != errno.EEXIST:
                    raise
                if not again:
                    raise Conflict(
                        f"cannot connect container {endpoint.container_id[:12]} to network {endpoint.network.name}: "
                        f"it has a link named {endpoint.ifname}"
                    ) from error
                again = False
                self._remove_endpoint(endpoint.id)

    def reconnect(self, host_link: str, endpoint: Endpoint, bridge: Bridge) -> None:
        """Make the existing host end of a pair a working port of the bridge again."""
        what = f"reconnect container {endpoint.container_id[:12]} to network {endpoint.network.name}"
        with _errors(what):
            master = _index(bridge.name)
            if master is None:
                raise DriverError(f"cannot {what}: bridge {bridge.name} does not exist")
            self._pairs.change(netlink.enslave(host_link, master, bridge.mtu))
            self._mark(host_link, endpoint, bridge)

    def _mark(self, name: str, endpoint: Endpoint, bridge: Bridge) -> None:
        """Set the alias and port settings. These messages are not in the same datagram as the messages of `_add_pair`. If
        `_add_pair` fails because another link has the name, the kernel still executes all later messages of the datagram,
        and changes that link."""
        # Hairpin is needed, because packets of a container to its own published port leave through the bridge port from
        # which they came.
        try:
            self._pairs.change(netlink.mark_port(name, self._endpoint_alias(endpoint.id), isolates(bridge)))
        except Refused as error:
            if error.errno == errno.ENODEV:
                raise DriverError(f"cannot find {name}, which was just created: the network namespace has ended") from error
            raise

    def _delete_pair(self, name: str) -> None:
        try:
            self._pairs.change(netlink.delete_link(name))
        except Refused as error:
            if error.errno not in _GONE:
                raise

    def disconnect(self, host_link: str, endpoint_id: str) -> None:
        """Remove the endpoint's pair by the name of its host end, or by alias when `host_link` is ""."""
        with _errors(f"disconnect endpoint {endpoint_id[:12]}"):
            if not host_link:
                self._remove_endpoint(endpoint_id)
            else:
                self._delete_pair(host_link)

    def silence(self, host_link: str) -> None:
        """Disable this bridge port immediately, because another container may get its address. This is faster than removing
        the port."""
        try:
            self._pairs.change(netlink.silence_port(host_link))
        except OSError as error:
            if error.errno != errno.ENODEV:
                self.disconnect(host_link, "")  # slow, but the link is being destroyed, or the bridge runs STP

    def _remove_endpoint(self, endpoint_id: str) -> None:
        alias = self._endpoint_alias(endpoint_id)
        for link in self._host.get_links():
            if link.get_attr("IFLA_IFALIAS") == alias:
                self._delete(link["index"])

    def listed(self) -> list[Link]:
        """All links of the host. Links with this driver's alias have `kind` and `ident` set."""
        with _errors("list links"):
            links = list(self._host.get_links())
        names = {link["index"]: link.get_attr("IFLA_IFNAME") for link in links}
        return [self._described(link, names) for link in links]

    def _described(self, link: Any, names: Mapping[int, str]) -> Link:
        alias = link.get_attr("IFLA_IFALIAS") or ""
        owner, _, rest = alias.partition(":")
        kind, _, ident = rest.partition(":") if owner == self._owner else ("", "", "")
        port = link.get_nested("IFLA_LINKINFO", "IFLA_INFO_SLAVE_DATA")
        return Link(
            name=link.get_attr("IFLA_IFNAME"),
            alias=alias,
            kind=kind,
            ident=ident,
            type=link.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") or "",
            master=names.get(link.get_attr("IFLA_MASTER") or 0, ""),
            up=bool(link["flags"] & _IFF_UP),
            mtu=link.get_attr("IFLA_MTU") or 0,
            hairpin=bool(port and port.get_attr("IFLA_BRPORT_MODE")),
            isolated=bool(port and port.get_attr("IFLA_BRPORT_ISOLATED")),
        )

    def addresses(self, name: str) -> frozenset[str]:
        """The addresses of a host link with their prefix lengths, except link-local addresses; empty if the link does not
        exist."""
        with _errors(f"list addresses of {name}"):
            index = _index(name)
            return frozenset() if index is None else frozenset(self._addresses(index))

    def remove(self, name: str, alias: str) -> None:
        """Remove a link if it still has this alias."""
        with _errors(f"remove link {name}"):
            for link in self._host.get_links():
                if link.get_attr("IFLA_IFNAME") == name and link.get_attr("IFLA_IFALIAS") == alias:
                    self._delete(link["index"])

    def remove_strangers(self, network_ids: set[str], endpoint_ids: set[str]) -> None:
        """Remove incomplete links, and links with an alias of this driver that contains none of these ids."""
        with _errors("remove left-over links"):
            for link in self._host.get_links():
                if self._is_half_made(link):
                    self._delete(link["index"])
                    continue
                owner, _, rest = (link.get_attr("IFLA_IFALIAS") or "").partition(":")
                kind, _, ident = rest.partition(":")
                if owner != self._owner:
                    continue
                known = {"network": network_ids, "endpoint": endpoint_ids}.get(kind)
                if known is not None and ident not in known:
                    self._delete(link["index"])
