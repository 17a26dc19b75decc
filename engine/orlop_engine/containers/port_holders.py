"""Finds what uses a host port: a container, or processes of the host, which proc(5) shows."""

from __future__ import annotations

import os
from collections.abc import Iterator

import trio

from orlop_engine.networks.ports import PortInUse

from . import listing
from .ports import Ports

__all__ = ["describe", "processes"]

_PATIENCE = 1.0  # seconds to look for the processes, because a host may have thousands of them
_STATES = {"tcp": "0A", "udp": "07"}  # TCP_LISTEN; an unconnected UDP socket is TCP_CLOSE


async def describe(ports: Ports, error: BaseException) -> str:
    """The user of the port, as "port 80 is held by nginx, pid 812"; "" if the error has another cause, or if no user is
    found."""
    if not isinstance(error, PortInUse) or not error.port:
        return ""
    filters = {"publish": [f"{error.port}/{error.protocol}"]}
    found = listing.select(ports, everything=False, limit=1, filters=filters)
    holder = f"container {found[0].name}" if found else ""
    if not holder:
        with trio.move_on_after(_PATIENCE):
            others = await trio.to_thread.run_sync(processes, error.port, error.protocol, abandon_on_cancel=True)
            holder = next((f"{program or 'an unnamed program'}, pid {pid}" for pid, program in others), "")
    return f"port {error.port} is held by {holder}" if holder else ""


def processes(port: int, protocol: str, proc: str = "/proc") -> list[tuple[int, str]]:
    """Pid and name of each process with a socket that is bound to the port, in the daemon's network namespace."""
    sockets = set(_sockets(port, protocol, proc))
    found = {pid for pid, target in _descriptors(proc) if target in sockets} if sockets else ()
    return [(pid, _text(f"{proc}/{pid}/comm").strip()) for pid in sorted(found)]


def _sockets(port: int, protocol: str, proc: str) -> Iterator[str]:
    """The sockets that are bound to the port and accept connections or datagrams. Each one has the name that links in
    /proc/PID/fd show, such as `socket:[4711]`."""
    state = _STATES.get(protocol)
    for version in ("", "6") if state else ():
        for line in _text(f"{proc}/net/{protocol}{version}").splitlines()[1:]:
            cells = line.split()
            if len(cells) >= 10 and cells[3] == state and int(cells[1].rpartition(":")[2], 16) == port:
                yield f"socket:[{cells[9]}]"


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


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
