"""Writes the files from which the name servers of containers read names. The files are rewritten when a network's members
change.

Files: `<exec-root>/network/names/` (one file per user-defined network), and `names` in the run directories of containers on
these networks. Each write replaces a whole file. Monitors read the files, even while no daemon runs. If a file cannot be
written (the file system is full), its content is kept in memory, and `write_again` writes it when there is space.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping

import msgspec
import trio

from orlop_engine.config import Config
from orlop_engine.types.containers import HostConfig
from orlop_monitor.dns.names import ContainerNames, NetworkNames, container_file, network_file

from . import files
from .host import read_resolv_conf
from .records import Sandbox
from .state import Network

__all__ = ["Names", "is_named"]

_log = logging.getLogger("orlop.networks")
_encode = msgspec.msgpack.Encoder().encode
_WRITE_AGAIN = 1.0  # seconds between two attempts to write tables


def is_named(sandbox: Sandbox | None) -> bool:
    """Whether the container is on a network whose members can look each other up by name."""
    return sandbox is not None and any(attached.dns_names for attached in sandbox.endpoints)


class Names:
    def __init__(self, config: Config) -> None:
        self._config = config
        self._directory = os.path.dirname(network_file(config.exec_root, "-"))
        self._unwritten: dict[str, bytes] = {}
        """The latest content of each file that could not be written, by path."""
        self._failed = trio.Event()

    def reconfigure(self, config: Config) -> None:
        self._config = config

    def publish(self, network: Network) -> None:
        """Write the current members of a network. Predefined networks have no names."""
        if network.record.predefined:
            return
        names: dict[str, list[str]] = {}
        reverse: dict[str, str] = {}
        for _, attached in network.members.values():
            addresses = [each.address.partition("/")[0] for each in attached.endpoint.addresses]
            for name in attached.dns_names:
                names.setdefault(name.lower(), []).extend(addresses)
            for address in addresses if attached.dns_names else ():
                reverse[address] = f"{attached.dns_names[0]}.{network.record.name}"
        found = {name: tuple(addresses) for name, addresses in names.items()}
        table = NetworkNames(network.record.name, found, reverse)
        self._replace(network_file(self._config.exec_root, network.record.id), _encode(table))

    def drop(self, network_id: str) -> None:
        """Remove the file of a removed network."""
        path = network_file(self._config.exec_root, network_id)
        self._unwritten.pop(path, None)
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass

    def keep(self, network_ids: Iterable[str]) -> None:
        """At the daemon's start: remove the files of all networks except these."""
        known = set(network_ids)
        if os.path.isdir(self._directory):
            for name in os.listdir(self._directory):
                if name not in known:
                    self.drop(name)

    def configure(self, run_dir: str, host: HostConfig, sandbox: Sandbox, links: Mapping[str, str]) -> str:
        """Write the configuration of a container's name server. Returns its path."""
        config = self._config
        overrides = files.Overrides(
            host.dns or config.dns, host.dns_search or config.dns_search, host.dns_options or config.dns_opts
        )
        named = [attached for attached in sandbox.endpoints if attached.dns_names]
        reaches_out = not all(attached.network.internal for attached in sandbox.endpoints)
        outside = files.embedded_servers(files.parse_resolv_conf(read_resolv_conf()), overrides)
        inside = bool(overrides.servers)
        ndots = [word.removeprefix("ndots:") for word in overrides.options if word.startswith("ndots:")]
        table = ContainerNames(
            networks=tuple(network_file(config.exec_root, attached.network.id) for attached in named),
            servers=tuple(outside) if inside or reaches_out else (),
            links={alias.lower(): name.lower() for alias, name in links.items()},
            inside=inside,
            dotted=bool(ndots) and ndots[-1].isdecimal() and ndots[-1].strip("0") != "",
        )
        path = container_file(run_dir)
        self._replace(path, _encode(table))
        return path

    def _replace(self, path: str, content: bytes) -> None:
        """Replace a file. A failure is only logged, because an outdated names table is better than a container that does not
        start."""
        try:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            self._write(path, content)
        except OSError as error:
            _log.error("cannot write DNS names table, will retry: %s", error)
            self._unwritten[path] = content
            self._failed.set()
        else:
            self._unwritten.pop(path, None)

    def _write(self, path: str, content: bytes) -> None:
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        half = f"{self._directory}/new"  # after a crash, the next daemon removes this file
        with open(half, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(content)
        os.rename(half, path)

    async def write_again(self) -> None:
        """Write pending tables as soon as possible, until the daemon ends."""
        while True:
            await self._failed.wait()
            self._failed = trio.Event()
            while self._unwritten:
                await trio.sleep(_WRITE_AGAIN)
                self._write_what_is_left()

    def _write_what_is_left(self) -> None:
        for path, content in list(self._unwritten.items()):
            if not os.path.isdir(os.path.dirname(path)) and os.path.dirname(path) != self._directory:
                del self._unwritten[path]  # the container has exited, and its run directory was removed
                continue
            try:
                self._write(path, content)
            except OSError:
                return  # the first failure has been logged
            del self._unwritten[path]
            _log.info("DNS names table %s written after retry", os.path.basename(path))
