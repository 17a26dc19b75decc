"""The tables that the daemon writes for name servers, and how names are looked up in them.

For each network there is a file with the names on this network. For each container there is a file with its networks and
upstream servers. Files are replaced atomically and never modified, so a reader sees complete content. The files stay valid
while no daemon runs.
"""

from __future__ import annotations

import os
import random
from typing import Generic, TypeVar

import msgspec

from . import wire

__all__ = ["ContainerNames", "NetworkNames", "Tables", "container_file", "network_file"]

T = TypeVar("T")


class NetworkNames(msgspec.Struct, frozen=True):
    """`names` maps a name in lower case to addresses. `reverse` maps an address to its name."""

    network: str
    names: dict[str, tuple[str, ...]] = {}
    reverse: dict[str, str] = {}


class ContainerNames(msgspec.Struct, frozen=True):
    """`networks` are the files of the networks (`NetworkNames`), in the order of lookup. `links` maps this container's
    `--link` aliases to names. `inside`: the upstream servers were configured for this container, so queries are sent to them
    from the container's network namespace. `dotted`: only names with a dot are forwarded."""

    networks: tuple[str, ...]
    servers: tuple[str, ...] = ()
    links: dict[str, str] = {}
    inside: bool = False
    dotted: bool = False


def network_file(exec_root: str, network_id: str) -> str:
    return os.path.join(exec_root, "network", "names", network_id)


def container_file(run_dir: str) -> str:
    return os.path.join(run_dir, "names")


class _File(Generic[T]):
    """A cached file, which is read again when it has been replaced."""

    def __init__(self, path: str, decoder: msgspec.msgpack.Decoder[T], empty: T) -> None:
        self._path, self._decoder = path, decoder
        self._stamp = (0, 0)
        self._value = empty

    def get(self) -> T:
        try:
            info = os.stat(self._path)
            if (stamp := (info.st_ino, info.st_mtime_ns)) != self._stamp:
                with open(self._path, "rb") as file:
                    self._value = self._decoder.decode(file.read())
                self._stamp = stamp
        except (OSError, msgspec.MsgspecError):
            pass  # Use the last content: the file was removed together with its network, or with the daemon's directory
        return self._value


_network = msgspec.msgpack.Decoder(NetworkNames)
_container = msgspec.msgpack.Decoder(ContainerNames)


class Tables:
    """The tables of one container's name server."""

    def __init__(self, path: str) -> None:
        self._container = _File(path, _container, ContainerNames(()))
        self._networks: dict[str, _File[NetworkNames]] = {}

    @property
    def container(self) -> ContainerNames:
        return self._container.get()

    def _tables(self) -> list[NetworkNames]:
        paths = self.container.networks
        for path in [path for path in self._networks if path not in paths]:
            del self._networks[path]
        for path in paths:
            if path not in self._networks:
                self._networks[path] = _File(path, _network, NetworkNames(""))
        return [self._networks[path].get() for path in paths]

    def answer(self, kind: int, name: str) -> list[bytes] | None:
        """The records of a known name (the list may be empty); None for an unknown name."""
        if kind == wire.PTR:
            address = wire.reverse_name(name)
            found = next((table.reverse[address] for table in self._tables() if address in table.reverse), "")
            return [wire.name_record(found)] if found else None
        addresses = self._addresses(name)
        if addresses is None:
            return None
        wanted = [each for each in addresses if kind == wire.ANY or (kind == wire.AAAA) == (":" in each)]
        if kind not in (wire.A, wire.AAAA, wire.ANY):
            wanted = []
        return [wire.address_record(each) for each in random.sample(wanted, len(wanted))]

    def _addresses(self, name: str) -> tuple[str, ...] | None:
        name = self.container.links.get(name, name)
        for table in self._tables():
            known = table.names.get(name) or table.names.get(name.removesuffix(f".{table.network.lower()}"))
            if known:
                return known
        return None
