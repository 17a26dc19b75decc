"""Start dependencies: a container needs the containers whose namespaces it joins, and those that it links to."""

from __future__ import annotations

from contextlib import suppress
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

from orlop_sdk import InvalidParameter, NotFound

from . import links
from .record import ContainerRecord

if TYPE_CHECKING:
    from .service import Containers

__all__ = ["needed", "order"]


def order(containers: Containers) -> dict[str, set[str]]:
    """Container id -> ids of the containers that must run before it. Cycles are broken: one member does not wait."""
    needs = {item.id: needed(containers, item.record) for item in containers.index.values()}
    while True:
        try:
            TopologicalSorter(needs).prepare()
        except CycleError as error:
            first, then, *_ = error.args[1]
            needs[then].discard(first)
        else:
            return needs


def needed(containers: Containers, record: ContainerRecord) -> set[str]:
    """The ids of the containers that must run before this one."""
    host = record.host_config
    modes = [mode for mode in (host.network_mode, host.ipc_mode, host.pid_mode) if mode.startswith("container:")]
    found = {*links.linked(containers, record)}
    for mode in modes:
        with suppress(NotFound, InvalidParameter):  # the start reports it
            found.add(containers.get(mode.removeprefix("container:")).id)
    return found
