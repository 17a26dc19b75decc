"""`--link`: reach another container under an alias.

On the default bridge, a link adds environment variables and a line in /etc/hosts, and the linked container must be running.
On user-defined networks, a link adds a DNS name.

A link on the default bridge also gives the linked container another name, "parent/alias", until the link is removed.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from orlop_engine.config import defaults
from orlop_engine.networks.ports import normal_ports
from orlop_engine.spec import link_variables
from orlop_engine.types.containers import HostConfig
from orlop_sdk import Conflict, DriverError, InvalidParameter, LinkedPort, NotFound

from .container import Container
from .index import ContainerIndex
from .ports import Ports
from .record import ContainerRecord
from .services import KnownNetworks

__all__ = ["aliases", "check", "environment", "hosts", "linked", "names", "ports", "remove", "resolve", "shown"]

_HOST_NETWORK = "conflicting options: host type networking can't be used with links. This would result in undefined behavior"


def _parse(link: str) -> tuple[str, str]:
    """Parse "container[:alias]" to (container, alias). Docker's own records have the form "/container:/other/alias"."""
    name, _, alias = link.partition(":")
    name = name.removeprefix("/")
    return name, (alias or name).rpartition("/")[2]


def check(index: ContainerIndex, host: HostConfig) -> None:
    """Validate links at create. The linked containers must exist already, unless the new container is on a user-defined
    network. On such a network a link is a DNS name, which is resolved only when a process looks it up."""
    for link in host.links or ():
        name, alias = _parse(link)
        if not name or not alias:
            raise InvalidParameter(f"bad format for links: {link}")
        if _is_user_defined(host.network_mode):
            continue
        try:
            other = _sharing(index, name)
        except NotFound as error:
            raise InvalidParameter(f"could not get container for {name}: {error}") from None
        if other.record.host_config.network_mode == defaults.HOST_NETWORK:
            raise InvalidParameter(_HOST_NETWORK)


def _is_user_defined(mode: str) -> bool:
    return mode not in ("", "default", *defaults.PREDEFINED_NETWORKS) and not mode.startswith("container:")


def _sharing(index: ContainerIndex, name: str) -> Container:
    """The container that owns the network of the container `name`: this container itself, or the container whose network it
    shares. Raises `NotFound`."""
    seen: set[str] = set()
    other = index.get(name)
    while (mode := other.record.host_config.network_mode).startswith("container:") and other.id not in seen:
        seen.add(other.id)
        other = index.get(mode.removeprefix("container:"))
    return other


def hosts(index: ContainerIndex, networks: KnownNetworks, record: ContainerRecord) -> list[tuple[str, str]]:
    """(address, names) of linked containers on the default bridge, for /etc/hosts."""
    found = []
    for link in record.host_config.links or () if _on_bridge(networks, record) else ():
        name, alias = _parse(link)
        other = _sharing(index, name)
        if not other.record.state.running or other.record.sandbox is None:
            raise Conflict(f"Cannot link to a non running container: /{other.name} AS /{record.name}/{alias}")
        addresses = _addresses(other)
        if not addresses:
            raise DriverError(f"Cannot link to /{other.name}, as it does not belong to the default network")
        names = " ".join(dict.fromkeys((alias, other.record.config.hostname, other.name)))
        found += [(address, names) for address in addresses]
    return found


def environment(index: ContainerIndex, networks: KnownNetworks, record: ContainerRecord) -> list[str]:
    """The environment variables that describe the linked containers. Linked containers that do not run are skipped. At a
    start there are none of these, because `hosts` raises an error for them."""
    found: list[str] = []
    for ident, alias in _legacy(index, networks, record) if _on_bridge(networks, record) else ():
        other = index.by_id[ident]
        if addresses := _addresses(other):
            config = other.record.config
            ports = link_variables.exposed(config.exposed_ports or ())
            found += link_variables.of_link(record.name, alias, addresses[0], ports, config.env or ())
    return found


def _addresses(other: Container) -> list[str]:
    """The container's addresses on the default bridge, the IPv4 address first. The result is empty if the container is not
    running."""
    sandbox = other.record.sandbox
    if sandbox is None or not other.record.state.running:
        return []
    found = [attached.endpoint for attached in sandbox.endpoints if attached.network.name == defaults.DEFAULT_NETWORK]
    return [address.address.partition("/")[0] for endpoint in found for address in endpoint.addresses]


def ports(index: ContainerIndex, networks: KnownNetworks, record: ContainerRecord) -> list[LinkedPort]:
    """The exposed ports of the containers to which this container has links on the default bridge."""
    found = []
    for other in linked(index, networks, record):
        for exposed in normal_ports(index.by_id[other].record.config.exposed_ports or ()):
            port, _, protocol = exposed.partition("/")
            found.append(LinkedPort(other, protocol, int(port)))
    return found


def aliases(index: ContainerIndex, networks: KnownNetworks, record: ContainerRecord) -> dict[str, str]:
    """Alias -> container name, for the DNS server of this container."""
    links = [*(record.host_config.links or ())]
    for settings in record.endpoints.values():
        links += settings.links or ()
    found = {}
    for name, alias in map(_parse, links):
        try:
            found[alias] = index.get(name).name
        except NotFound:
            found[alias] = name  # the linked container does not exist yet
    return found


def _on_bridge(networks: KnownNetworks, record: ContainerRecord) -> bool:
    """Whether the container's links are links on the default bridge. This depends on the current networks of the container,
    not on its network mode."""
    if not record.host_config.links:
        return False
    found = map(networks.known, record.endpoints)
    return any(network is not None and network.name == defaults.DEFAULT_NETWORK for network in found)


def _legacy(index: ContainerIndex, networks: KnownNetworks, record: ContainerRecord) -> Iterator[tuple[str, str]]:
    """Yields (id of the linked container, alias) for the links that create names "parent/alias"."""
    alone = record.host_config.network_mode in (defaults.HOST_NETWORK, defaults.NO_NETWORK)
    if not record.host_config.links or not (alone or _on_bridge(networks, record)):
        return
    for name, alias in map(_parse, record.host_config.links):
        try:
            yield _sharing(index, name).id, alias
        except (NotFound, InvalidParameter):
            continue  # the linked container was removed


def linked(index: ContainerIndex, networks: KnownNetworks, record: ContainerRecord) -> Iterator[str]:
    """Ids of the containers that must be running before this container can start (see `hosts`)."""
    if _on_bridge(networks, record):
        yield from (other for other, _ in _legacy(index, networks, record))


def names(index: ContainerIndex, networks: KnownNetworks) -> dict[str, list[str]]:
    """Container id -> its additional names, in one pass over all containers."""
    found: dict[str, list[str]] = {}
    for item in index:
        if item.record.host_config.links:
            for other, alias in _legacy(index, networks, item.record):
                found.setdefault(other, []).append(f"{item.name}/{alias}")
    return found


def shown(index: ContainerIndex, networks: KnownNetworks, record: ContainerRecord) -> list[str] | None:
    """`HostConfig.Links` of inspect, with the current names of the containers."""
    found = [f"/{index.by_id[other].name}:/{record.name}/{alias}" for other, alias in _legacy(index, networks, record)]
    return sorted(found) or None


def resolve(index: ContainerIndex, networks: KnownNetworks, text: str) -> Container | None:
    """Resolve the name "parent/alias" to a container; the parent may be given by id."""
    parent, _, wanted = text.removeprefix("/").rpartition("/")
    holder = index.names.get(parent, parent)
    if holder not in index:
        return None
    found = (other for other, alias in _legacy(index, networks, index.by_id[holder].record) if alias == wanted)
    return index.by_id.get(next(found, ""))


async def remove(ports: Ports, text: str) -> None:
    """`docker rm --link parent/alias`: remove the link and keep both containers."""
    parent, _, wanted = text.removeprefix("/").rpartition("/")
    if not parent:
        raise Conflict("Conflict, cannot remove the default link name of the container")
    if parent not in ports.index.names and parent not in ports.index:
        raise NotFound(f"Cannot get parent /{parent} for link name {text}")
    container = ports.index.get(parent)
    async with container.lock:
        host = container.record.host_config
        kept = [link for link in host.links or () if _parse(link)[1] != wanted]
        if len(kept) == len(host.links or ()):
            raise NotFound(f"No such container: {text}")
        async with ports.rows.change(container) as draft:
            draft.host_config = replace(host, links=kept or None)
