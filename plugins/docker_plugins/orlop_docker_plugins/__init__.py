"""Plugins with Docker's protocol: programs that listen on a socket, which dockerd finds by the names of files.

For a volume driver that no distribution registers, `address` looks for a socket or a file in Docker's directories. `volumes`
is a volume driver that calls the program by HTTP. The adapter starts no program and stores no files.
"""

from collections.abc import Callable

from orlop_sdk import FoundDriver, hookimpl

__all__ = ["orlop_find_driver"]


@hookimpl
def orlop_find_driver(kind: str, name: str, looked: Callable[[str], None]) -> FoundDriver | None:
    if kind != "volume":
        return None
    from . import address, volumes  # imported here, because monitors of containers ask for log drivers and import no trio

    found = address.find(name, looked)
    return FoundDriver(lambda context: volumes.DockerVolumes(name, found)) if found else None
