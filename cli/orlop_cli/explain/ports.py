"""The processes of this machine that hold ports, from /proc/net and /proc/PID/fd (proc(5))."""

from __future__ import annotations

import os

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Holder", "holders", "words"]

_STATES = {"tcp": "0A", "udp": "07"}  # TCP_LISTEN; an unconnected UDP socket is TCP_CLOSE
_HEX = "0123456789abcdef"


class Holder:
    """A socket that holds a port. `pid` is 0 if the caller may not read the process."""

    def __init__(self, address: str, uid: int, pid: int = 0, program: str = "", container: str = "") -> None:
        self.address, self.uid, self.pid, self.program, self.container = address, uid, pid, program, container


def holders(port: int, protocol: str, proc: str = "/proc") -> list[Holder]:
    """The sockets bound to a port of this network namespace, each process once."""
    sockets = {inode: (address, uid) for inode, address, uid in _sockets(port, protocol, proc)}
    if not sockets:
        return []
    found: dict[int, Holder] = {}
    known = set()
    for pid, inode in _descriptors(proc):
        if inode in sockets:
            known.add(inode)
            address, uid = sockets[inode]
            found.setdefault(pid, Holder(address, uid, pid, _text(f"{proc}/{pid}/comm").strip(), _container(proc, pid)))
    unknown = [Holder(*sockets[inode]) for inode in sockets if inode not in known]
    return [found[pid] for pid in sorted(found)] + unknown[:1]


def words(holder: Holder, names: dict[str, str]) -> str:
    """The process in words. `names` are the names of containers by ID."""
    if not holder.pid:
        return f"a process of user {holder.uid}; only root can read its name"
    text = f"{holder.program or 'an unnamed program'}, pid {holder.pid}"
    return f"{text}, in container {names[holder.container]}" if holder.container in names else text


def _sockets(port: int, protocol: str, proc: str) -> Iterator[tuple[str, str, int]]:
    """Inode, address and user of each socket that is bound to the port and accepts connections or datagrams."""
    state = _STATES.get(protocol)
    for version in ("", "6") if state else ():
        for line in _text(f"{proc}/net/{protocol}{version}").splitlines()[1:]:
            cells = line.split()
            if len(cells) < 10:
                continue
            address, _, number = cells[1].rpartition(":")
            if cells[3] == state and int(number, 16) == port:
                yield cells[9], _address(address), int(cells[7])


def _address(text: str) -> str:
    """Decode an address, whose 32-bit words are in the byte order of this machine."""
    import socket
    import sys

    data = b"".join(int(text[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(text), 8))
    return socket.inet_ntop(socket.AF_INET if len(data) == 4 else socket.AF_INET6, data)


def _descriptors(proc: str) -> Iterator[tuple[int, str]]:
    """Process and inode of every open socket that the caller may read. Processes and descriptors may end meanwhile."""
    for pid in filter(str.isdigit, os.listdir(proc)):
        try:
            descriptors = os.listdir(f"{proc}/{pid}/fd")
        except OSError:
            continue
        for fd in descriptors:
            try:
                target = os.readlink(f"{proc}/{pid}/fd/{fd}")
            except OSError:
                continue
            if target.startswith("socket:["):
                yield int(pid), target[8:-1]


def _container(proc: str, pid: int) -> str:
    """The container's ID in the path of the process's cgroup; "" if the path has none."""
    for line in _text(f"{proc}/{pid}/cgroup").splitlines():
        for part in line.replace("-", "/").replace(".scope", "").split("/"):
            if len(part) == 64 and not part.strip(_HEX):
                return part
    return ""


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
