"""Removal of UDP flows from the kernel's connection table (conntrack).

While a UDP client continues to send, the kernel keeps the client's entry. All packets of the client are then forwarded to
the same container as the first packet (or to no container), even if the rules have changed. So the entries of a port are
removed when the port is published.

Only the network thread (see `orlop_sdk.networking.Worker`) calls this module.
"""

from __future__ import annotations

import socket
from collections.abc import Collection
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple, NFCTSocket

__all__ = ["forget_udp"]


def _tuple(entry: Any, version: int) -> Any | None:
    """The original direction of an entry; None when the flow is not UDP."""
    held = entry.get_attr("CTA_TUPLE_ORIG")
    if held is None:
        return None
    addresses, ports = held.get_attr("CTA_TUPLE_IP"), held.get_attr("CTA_TUPLE_PROTO")
    if addresses is None or ports is None or ports.get_attr("CTA_PROTO_NUM") != socket.IPPROTO_UDP:
        return None
    return NFCTAttrTuple(
        saddr=addresses.get_attr(f"CTA_IP_V{version}_SRC"),
        daddr=addresses.get_attr(f"CTA_IP_V{version}_DST"),
        proto=socket.IPPROTO_UDP,
        sport=ports.get_attr("CTA_PROTO_SRC_PORT"),
        dport=ports.get_attr("CTA_PROTO_DST_PORT"),
    )


def forget_udp(version: int, ports: Collection[int]) -> None:
    """Remove all UDP flows to these host ports. Errors are ignored, because the kernel may lack the interface, and an entry
    may expire meanwhile."""
    try:
        table = NFCTSocket(nfgen_family=socket.AF_INET if version == 4 else socket.AF_INET6)
    except OSError:
        return
    try:
        for entry in list(table.dump()):
            flow = _tuple(entry, version)
            if flow is not None and flow.dport in ports:
                try:
                    table.entry("del", tuple_orig=flow)
                except NetlinkError:
                    continue
    except (NetlinkError, OSError):
        return
    finally:
        table.close()
