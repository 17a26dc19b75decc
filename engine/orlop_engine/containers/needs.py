"""Start dependencies. A container needs the containers whose namespaces it joins, and the containers to which it has
links."""

from __future__ import annotations

from contextlib import suppress
from graphlib import CycleError, TopologicalSorter

from orlop_sdk import InvalidParameter, NotFound

from . import links
from .index import ContainerIndex
from .record import ContainerRecord
from .services import KnownNetworks

__all__ = ["needed", "order"]


def order(index: ContainerIndex, networks: KnownNetworks) -> dict[str, set[str]]:
    """Maps each container id to the ids of the containers that must run before this container. If the dependencies form a
    cycle, one of them is ignored."""
    needs = {item.id: needed(index, networks, item.record) for item in index}
    while True:
        try:
            TopologicalSorter(needs).prepare()
        except CycleError as error:
            first, then, *_ = error.args[1]
            needs[then].discard(first)
        else:
            return needs


def needed(index: ContainerIndex, networks: KnownNetworks, record: ContainerRecord) -> set[str]:
    """The ids of the containers that must run before this container."""
    host = record.host_config
    modes = [mode for mode in (host.network_mode, host.ipc_mode, host.pid_mode) if mode.startswith("container:")]
    found = {*links.linked(index, networks, record)}
    for mode in modes:
        with suppress(NotFound, InvalidParameter):  # the start will report the error
            found.add(index.get(mode.removeprefix("container:")).id)
    return found
