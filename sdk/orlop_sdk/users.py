"""Resolves `--user` in the container's own /etc/passwd and /etc/group.

The image controls these files, so they are opened relative to the root's descriptor, must be regular files, and are read
only up to a limit.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence

import msgspec

from orlop_sdk import InvalidParameter, linux
from orlop_sdk.numbers import natural

__all__ = ["Identity", "identify", "read", "resolve"]

_FILE_LIMIT = 4 << 20
_ID_LIMIT = (1 << 31) - 1  # runc and Docker refuse ids past int32


class Identity(msgspec.Struct, frozen=True):
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def read(root: int, path: str) -> str:
    """The text of a regular file below the directory descriptor `root`; "" if there is none. Reads up to a limit."""
    try:
        fd = linux.open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return ""  # without the file, numeric ids can still be used, and names are unknown
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return ""
        return os.read(fd, _FILE_LIMIT).decode("utf-8", "replace")
    finally:
        os.close(fd)


def _lines(text: str, fields: int) -> Iterator[list[str]]:
    for line in text.splitlines():
        parts = line.strip().split(":")
        if len(parts) >= fields and not line.startswith("#"):
            yield parts


def _number(text: str, what: str, user: str) -> int | None:
    """`text` as an id; None when it is a name. A number out of range raises `InvalidParameter`: a runtime would truncate it,
    and thus select another user."""
    if not text.isascii() or not text.lstrip("+-").isdigit():
        return None
    value = natural(text, _ID_LIMIT)
    if value is None:
        raise InvalidParameter(f"unable to find user {user}: {what} {text} is out of range [0, {_ID_LIMIT}]")
    return value


def _id(text: str) -> int | None:
    """An id from passwd or group; None when it is out of range."""
    return natural(text, _ID_LIMIT)


def resolve(root: int, user: str, group_add: Sequence[str] = ()) -> Identity:
    """Resolve `user[:group]` (names or numbers) in the files below the directory descriptor `root`. A number is accepted
    without an entry in the files. Raises `InvalidParameter` for an unknown name."""
    return identify(read(root, "/etc/passwd"), read(root, "/etc/group"), user, group_add)


def identify(passwd: str, groups: str, user: str, group_add: Sequence[str] = ()) -> Identity:
    """Like `resolve`, with the texts of the two files."""
    name, _, group = user.partition(":")
    uid, gid, home, login = _user(passwd, name or "0", user)
    members: list[int] = []
    if group:
        gid = _group(groups, group, user)
    elif login:
        members = [
            number for parts in _lines(groups, 4) if login in parts[3].split(",") and (number := _id(parts[2])) is not None
        ]
    extra = [_group(groups, item, item) for item in group_add]
    return Identity(uid, gid, tuple(dict.fromkeys([gid, *members, *extra])), home)


def _user(passwd: str, name: str, user: str) -> tuple[int, int, str, str]:
    """Returns (uid, gid, home, login name)."""
    number = _number(name, "uid", user)
    for parts in _lines(passwd, 7):
        # Do not look up a number as a login name: an image could give root the name "1000"
        if _id(parts[2]) == number if number is not None else parts[0] == name:
            uid, gid = _id(parts[2]), _id(parts[3])
            if uid is not None and gid is not None:
                return uid, gid, parts[5] or "/", parts[0]
    if number is None:
        raise InvalidParameter(f"unable to find user {name}: no matching entries in passwd file")
    return number, 0, "/root" if number == 0 else "/", ""


def _group(groups: str, name: str, user: str) -> int:
    number = _number(name, "gid", user)
    if number is not None:
        return number
    for parts in _lines(groups, 3):
        if parts[0] == name and (gid := _id(parts[2])) is not None:
            return gid
    raise InvalidParameter(f"unable to find group {name}: no matching entries in group file")
