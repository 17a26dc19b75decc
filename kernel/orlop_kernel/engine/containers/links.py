"""`--link`: another container under a name of one's own.

On the default bridge a line of /etc/hosts, of a container that has to run; on user-defined networks one more name for the
name server. The environment that Docker once made of links is not made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop_kernel.spi import Conflict, InvalidParameter, NotFound

from .record import ContainerRecord

if TYPE_CHECKING:
    from .service import Containers

__all__ = ["aliases", "check", "hosts"]


def _parse(link: str) -> tuple[str, str]:
    """(container, alias) of "container[:alias]"; Docker's own records have "/container:/other/alias"."""
    name, _, alias = link.partition(":")
    name = name.removeprefix("/")
    return name, (alias or name).rpartition("/")[2]


def check(room: Containers, links: list[str] | None) -> None:
    """At create: what is linked must exist."""
    for link in links or ():
        name, alias = _parse(link)
        if not name or not alias:
            raise InvalidParameter(f"bad format for links: {link}")
        try:
            room.get(name)
        except NotFound as error:
            raise InvalidParameter(f"could not get container for {name}: {error}") from None


def hosts(room: Containers, record: ContainerRecord) -> list[tuple[str, str]]:
    """(address, names) for /etc/hosts, of containers on the default bridge."""
    found = []
    for link in record.host_config.links or () if record.host_config.network_mode == "bridge" else ():
        name, alias = _parse(link)
        other = room.get(name)
        sandbox = other.record.sandbox
        if not other.record.state.running or sandbox is None:
            raise Conflict(f"Cannot link to a non running container: /{other.name} AS /{record.name}/{alias}")
        names = " ".join(dict.fromkeys((alias, other.record.config.hostname, other.name)))
        for attached in sandbox.endpoints:
            if attached.network.name == "bridge":
                found += [(address.address.partition("/")[0], names) for address in attached.endpoint.addresses]
    return found


def aliases(room: Containers, record: ContainerRecord) -> dict[str, str]:
    """Alias -> name that the networks know, for the name server of this container."""
    links = [*(record.host_config.links or ())]
    for settings in record.endpoints.values():
        links += settings.links or ()
    found = {}
    for name, alias in map(_parse, links):
        try:
            found[alias] = room.get(name).name
        except NotFound:
            found[alias] = name  # not there yet
    return found
