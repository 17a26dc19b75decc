"""Reading /proc/self/mountinfo (proc(5)): the one parser for sandbox and cgroups. Sans-IO but for `read`."""

from __future__ import annotations

import re
from typing import NamedTuple

from orlop_sdk import smallfiles

__all__ = ["MountEntry", "parse", "read"]

_OCTAL = re.compile(rb"\\([0-7]{3})")


class MountEntry(NamedTuple):
    """`propagates`: it is a member of a peer group or a slave of one: what happens below it on the host happens here."""

    id: int
    parent: int
    root: str
    path: str
    propagates: bool
    type: str
    options: tuple[str, ...]
    shared: bool = False
    """It is a member of a peer group: what happens below it here happens on the host."""


def _text(field: bytes) -> str:
    return _OCTAL.sub(lambda match: bytes([int(match[1], 8)]), field).decode("utf-8", "surrogateescape")


def parse(content: bytes) -> list[MountEntry]:
    """Every mount, in the kernel's order: a mount comes after what it is mounted on."""
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
