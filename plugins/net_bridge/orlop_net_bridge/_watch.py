"""Notices when another program deletes or flushes nftables rules that this daemon relies on.

The kernel announces each change of nftables on a netlink socket. The announcement carries the name of the table and of the
chain, so that most changes, for example those of other programs in their own tables, cost only the parsing of a few bytes.
Changes of single elements of sets, which the driver makes for each container, are ignored.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator

__all__ = ["Watch", "concerns"]

_NETLINK_NETFILTER = 12  # linux/netlink.h
_NFNLGRP_NFTABLES = 7  # linux/netfilter/nfnetlink.h
_NFNL_SUBSYS_NFTABLES = 10
# linux/netfilter/nf_tables.h: the types of messages, and the numbers of the attributes with names of table and chain
_DELTABLE, _NEWCHAIN, _DELCHAIN, _DELRULE, _DELSET = 2, 3, 5, 8, 11
_CHAIN_ATTRIBUTE = {_NEWCHAIN: 3, _DELCHAIN: 3, _DELRULE: 2}
_TABLE_ATTRIBUTE = 1
_DOCKER_CHAIN = "DOCKER-USER"
_BUFFER = 1 << 18


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields the type and the encoded attributes of each message in a datagram."""
    begin = 0
    while len(data) - begin >= 16:
        size, kind = struct.unpack_from("=IH", data, begin)
        if size < 16:
            return
        yield kind, data[begin + 20 : begin + size]  # after 16 bytes of struct nlmsghdr, and 4 bytes of struct nfgenmsg
        begin += size + 3 & ~3


def _names(data: bytes) -> dict[int, str]:
    """Maps the numbers of the attributes to their values as text. The attributes that this module uses are texts."""
    found, begin = {}, 0
    while len(data) - begin >= 4:
        size, kind = struct.unpack_from("=HH", data, begin)
        if size < 4:
            break
        found[kind & 0x3FFF] = data[begin + 4 : begin + size].rstrip(b"\0").decode("utf-8", "replace")
        begin += size + 3 & ~3
    return found


def concerns(data: bytes, table: str) -> bool:
    """Whether a datagram announces that rules of `table` or of Docker's chain are gone, or that Docker's chain is new."""
    for kind, attributes in _messages(data):
        subsystem, what = kind >> 8, kind & 0xFF
        if subsystem != _NFNL_SUBSYS_NFTABLES or what not in (_DELTABLE, _NEWCHAIN, _DELCHAIN, _DELRULE, _DELSET):
            continue
        names = _names(attributes)
        if what != _NEWCHAIN and names.get(_TABLE_ATTRIBUTE) == table:
            return True
        if what in _CHAIN_ATTRIBUTE and names.get(_CHAIN_ATTRIBUTE[what]) == _DOCKER_CHAIN:
            return True
    return False


class Watch:
    """Calls `changed` in a thread of its own after each change that concerns `table`. Watches the network namespace of the
    thread that creates it."""

    def __init__(self, table: str, changed: Callable[[], None]) -> None:
        self._table = table
        self._changed = changed
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        self._end = -1
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            self._socket.bind((0, 1 << (_NFNLGRP_NFTABLES - 1)))
            self._end = os.eventfd(0, os.EFD_CLOEXEC)
            self._thread = threading.Thread(target=self._read, name="orlop-nftables", daemon=True)
            self._thread.start()
        except BaseException:
            self._release()
            raise

    def close(self) -> None:
        os.eventfd_write(self._end, 1)
        self._thread.join()
        self._release()

    def _release(self) -> None:
        self._socket.close()
        if self._end >= 0:
            os.close(self._end)

    def _read(self) -> None:
        ready = select.poll()
        ready.register(self._socket, select.POLLIN)
        ready.register(self._end, select.POLLIN)
        while all(fd != self._end for fd, _ in ready.poll()):
            try:
                relevant = concerns(self._socket.recv(_BUFFER), self._table)
            except OSError:  # ENOBUFS: the kernel dropped announcements because there were too many
                relevant = True
            if relevant:
                self._changed()
