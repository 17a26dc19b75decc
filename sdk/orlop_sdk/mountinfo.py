"""Parser of /proc/self/mountinfo (proc(5)), used for sandboxes and cgroups. Only `read` does I/O."""

from __future__ import annotations

import re
from typing import NamedTuple

from orlop_sdk import smallfiles

__all__ = ["MountEntry", "parse", "read"]

_OCTAL = re.compile(rb"\\([0-7]{3})")


class MountEntry(NamedTuple):
    """One mount. `propagates` is true if the mount is in a peer group, or is a slave of a peer group. Such a mount receives
    mounts from the host."""

    id: int
    parent: int
    root: str
    path: str
    propagates: bool
    type: str
    options: tuple[str, ...]
    shared: bool = False
    """The mount is in a peer group: if this process mounts something below it, the new mount appears on the host, too."""


def _text(field: bytes) -> str:
    return _OCTAL.sub(lambda match: bytes([int(match[1], 8)]), field).decode("utf-8", "surrogateescape")


def parse(content: bytes) -> list[MountEntry]:
    """All mounts, in the kernel's order. A mount comes after the mount on which it is mounted."""
    entries = []
    for line in content.splitlines():
        head, _, tail = line.partition(b" - ")
        fields, kind = head.split(b" "), tail.split(b" ")
        entries.append(
            MountEntry(
                id=int(fields[0]),
                parent=int(fields[1]),
                root=_text(fields[3]),
                path=_text(fields[4]),
                propagates=any(field.startswith((b"shared:", b"master:")) for field in fields[6:]),
                type=kind[0].decode(),
                options=tuple(_text(kind[2]).split(",")),
                shared=any(field.startswith(b"shared:") for field in fields[6:]),
            )
        )
    return entries


def read() -> list[MountEntry]:
    return parse(smallfiles.read("/proc/self/mountinfo"))
