"""Owners by name, looked up in the files of an image. The image's author controls these files, so they are opened inside the
root and read up to a limit."""

from __future__ import annotations

import os
import stat

from orlop_build_dockerfile.pb import ops_pb2
from orlop_sdk import linux

from .paths import opened

__all__ = ["resolve_owner"]

_LIMIT = 4 << 20


def resolve_owner(root: int, chown: ops_pb2.ChownOpt) -> tuple[int, int]:
    """Returns user and group. If only a user name is given, the group comes from its entry in passwd. If only a number is
    given, the group has the same number. As in BuildKit, an unknown name means root."""
    uid = gid = 0
    if chown.HasField("user"):
        uid, gid = _user(root, chown.user)
    if chown.HasField("group"):
        gid = chown.group.byID if chown.group.HasField("byID") else _group(root, chown.group.byName.name)
    return uid, gid


def _user(root: int, option: ops_pb2.UserOpt) -> tuple[int, int]:
    if option.HasField("byID"):
        return option.byID, option.byID
    if not option.HasField("byName"):
        return 0, 0
    name = option.byName.name
    for parts in _lines(root, "/etc/passwd", 4):
        if parts[0] == name and parts[2].isdecimal() and parts[3].isdecimal():
            return int(parts[2]), int(parts[3])
    return 0, 0


def _group(root: int, name: str) -> int:
    for parts in _lines(root, "/etc/group", 3):
        if parts[0] == name and parts[2].isdecimal():
            return int(parts[2])
    return 0


def _lines(root: int, path: str, fields: int) -> list[list[str]]:
    """The entries of a file; empty if the file does not exist."""
    try:
        fd = linux.open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return []
    with opened(fd):
        text = os.read(fd, _LIMIT).decode("utf-8", "replace") if stat.S_ISREG(os.fstat(fd).st_mode) else ""
    entries = (line.strip().split(":") for line in text.splitlines() if not line.startswith("#"))
    return [entry for entry in entries if len(entry) >= fields]
