"""`docker diff`: what a container has changed of its image, without what the engine made in it."""

from __future__ import annotations

from collections.abc import Sequence

from orlop_kernel.engine.containers.container import Container
from orlop_kernel.engine.containers.service import Containers
from orlop_kernel.spi import Change
from orlop_kernel.spi.storage import ChangeKind

__all__ = ["changed", "without_engine"]

# Mount points that a runtime makes in the root, and the mark of a container.
_MADE = frozenset({"/.dockerenv", "/dev", "/proc", "/sys", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/etc/mtab"})


def without_engine(changes: Sequence[Change], *, quiet: bool) -> list[Change]:
    """Less the engine's own, and /etc if it was made for those alone. `quiet`: nor is /etc told when nothing else in it
    changed."""
    kept = [change for change in changes if change.path not in _MADE and not change.path.startswith("/dev/")]
    if not any(change.path.startswith("/etc/") for change in kept):
        kept = [change for change in kept if change.path != "/etc" or (not quiet and change.kind != ChangeKind.ADDED)]
    return sorted(kept, key=lambda change: change.path)


async def changed(room: Containers, container: Container, *, quiet: bool = True) -> list[Change]:
    return without_engine(await room.engine.storage.changes(container.id), quiet=quiet)
