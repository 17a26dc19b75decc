"""Finds what uses a host port: a container, or processes of the host, which proc(5) shows."""

from __future__ import annotations

import ipaddress
import logging
import os
import sys
from collections.abc import Iterator

import trio

from orlop_engine.networks.ports import PortInUse

from .ports import Ports

__all__ = ["describe", "processes"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_log = logging.getLogger("orlop.containers")
_PATIENCE = 1.0  # seconds to look for the processes, because a host may have thousands of them
_STATES = {"tcp": "0A", "udp": "07"}  # TCP_LISTEN; an unconnected UDP socket is TCP_CLOSE


async def describe(ports: Ports, error: BaseException) -> str:
    """The user of the port, as "port 80 is held by nginx, pid 812"; "" if the error has another cause, or if no user is
    found."""
    if not isinstance(error, PortInUse):
        return ""
    try:
        holder = _container(ports, error) if error.is_published else await _process(error)
    except Exception as failure:  # the client gets the error without this addition
        _log.debug("cannot find the user of port %d: %s", error.port, failure)
        return ""
    return f"port {error.port} is held by {holder}" if holder else ""


def _container(ports: Ports, error: PortInUse) -> str:
    wanted = ipaddress.ip_address(error.address)
    for each in ports.index:
        for port in each.record.sandbox.ports if each.record.sandbox else ():
            is_same = (port.host_port, port.protocol) == (error.port, error.protocol)
            if is_same and _excludes(ipaddress.ip_address(port.host_ip), wanted):
                return f"container {each.name}"
    return ""


async def _process(error: PortInUse) -> str:
    with trio.move_on_after(_PATIENCE):
        search = (error.port, error.protocol, error.address)
        for pid, program in await trio.to_thread.run_sync(processes, *search, abandon_on_cancel=True):
            return f"{program or 'an unnamed program'}, pid {pid}"
    return ""


def processes(port: int, protocol: str, address: str, proc: str = "/proc") -> list[tuple[int, str]]:
    """Pid and name of each process, in the daemon's network namespace, with a socket because of which no other socket can be
    bound to the port of the address."""
    sockets = set(_sockets(port, protocol, ipaddress.ip_address(address), proc))
    found = {pid for pid, target in _descriptors(proc) if target in sockets} if sockets else ()
    return [(pid, _name(pid, proc)) for pid in sorted(found)]


def _sockets(port: int, protocol: str, wanted: Address, proc: str) -> Iterator[str]:
    """The sockets that are bound to the port and accept connections or datagrams. Each one has the name that links in
    /proc/PID/fd show, such as `socket:[4711]`."""
    state = _STATES.get(protocol)
    for version in ("", "6") if state else ():
        for line in _text(f"{proc}/net/{protocol}{version}").splitlines()[1:]:
            cells = line.split()
            if len(cells) < 10 or cells[3] != state:
                continue
            address, _, number = cells[1].rpartition(":")
            if int(number, 16) == port and _excludes(_address(address), wanted):
                yield f"socket:[{cells[9]}]"


def _address(text: str) -> Address:
    """Decode an address, whose 32-bit words are in the byte order of this machine."""
    words = (int(text[begin : begin + 8], 16) for begin in range(0, len(text), 8))
    found = ipaddress.ip_address(b"".join(word.to_bytes(4, sys.byteorder) for word in words))
    return found.ipv4_mapped or found if isinstance(found, ipaddress.IPv6Address) else found


def _excludes(held: Address, wanted: Address) -> bool:
    """Whether no socket can be bound to a port of `wanted`, because another one is bound to this port of `held`. A socket of
    `::` also receives packets for addresses of IPv4."""
    if held.version != wanted.version:
        return held.version == 6 and held.is_unspecified
    return held == wanted or held.is_unspecified or wanted.is_unspecified


def _descriptors(proc: str) -> Iterator[tuple[int, str]]:
    """Pid and target of every open descriptor. Processes may end and descriptors may be closed meanwhile."""
    for pid in filter(str.isdigit, os.listdir(proc)):
        directory = f"{proc}/{pid}/fd"
        try:
            descriptors = os.listdir(directory)
        except OSError:
            continue
        for fd in descriptors:
            try:
                yield int(pid), os.readlink(f"{directory}/{fd}")
            except OSError:
                continue


def _name(pid: int, proc: str) -> str:
    """The name of the program. Every program can choose its name, so bytes that control a terminal are replaced."""
    return "".join(each if each.isprintable() else "?" for each in _text(f"{proc}/{pid}/comm").removesuffix("\n"))


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
