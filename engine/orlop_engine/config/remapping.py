"""`userns-remap`: the user whose subordinate ids containers get, from /etc/passwd, /etc/group, /etc/subuid and /etc/subgid.

As in dockerd, all ranges of the user are concatenated in the order of their first ids, and mapped from 0.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from orlop_sdk import InvalidParameter
from orlop_sdk.idmaps import IdMap, IdRange

__all__ = ["DEFAULT_USER", "closed_directory", "id_map"]

DEFAULT_USER = "dockremap"
_MOST = 340  # maximum number of ranges in a mapping (user_namespaces(7))


def id_map(text: str, etc: str = "/etc") -> IdMap | None:
    """The mapping for the value of `userns-remap` ("default", USER or USER:GROUP; names or ids); None for "" and "host".
    Raises `InvalidParameter`."""
    if text in ("", "host"):
        return None
    user, colon, group = (DEFAULT_USER, "", "") if text == "default" else text.partition(":")
    if not user or (colon and not group) or ":" in group:
        raise InvalidParameter(f'invalid userns-remap "{text}": it must be default, USER or USER:GROUP')
    if text == "default" and _find(f"{etc}/passwd", user) is None:
        raise InvalidParameter(
            f"cannot use userns-remap: there is no user {DEFAULT_USER}. Create it: useradd --system --no-create-home "
            f"--add-subids-for-system {DEFAULT_USER}"
        )
    account = _found(f"{etc}/passwd", user, "user")
    name = account[0]
    group = _found(f"{etc}/group", group, "group")[0] if group else name
    return IdMap(
        _ranges(f"{etc}/subuid", name, account[1] if len(account) > 2 else ""),
        _ranges(f"{etc}/subgid", group, account[2] if group == name else ""),
    )


def closed_directory(path: str) -> str:
    """The first directory on the path (`path` is one of them) that other users may not traverse; "" if there is none.
    Runtimes must traverse all of these directories as root of the user namespace. Directories that do not exist are ignored,
    because the daemon will create them."""
    directory = "/"
    for part in os.path.realpath(path).split("/"):
        directory = os.path.join(directory, part)
        try:
            mode = os.stat(directory).st_mode
        except OSError:
            return ""
        if not mode & stat.S_IXOTH:
            return directory
    return ""


def _lines(path: str) -> Iterator[list[str]]:
    try:
        with open(path) as file:
            text = file.read()
    except FileNotFoundError:
        return
    except OSError as error:
        raise InvalidParameter(f"cannot use userns-remap: {path}: {error.strerror}") from None
    for line in text.splitlines():
        parts = line.strip().split(":")
        if len(parts) >= 3 and not line.startswith("#"):
            yield parts


def _find(path: str, name: str) -> list[str] | None:
    """[name, id, ...] of the user or group with this name or id."""
    for parts in _lines(path):
        if name in (parts[0], parts[2]):
            return [parts[0], *parts[2:]]
    return None


def _found(path: str, name: str, kind: str) -> list[str]:
    found = _find(path, name)
    if found is None:
        raise InvalidParameter(f"cannot use userns-remap: there is no {kind} {name}")
    return found


def _ranges(path: str, name: str, number: str) -> tuple[IdRange, ...]:
    found, inside = [], 0
    mine = [parts for parts in _lines(path) if parts[0] in (name, number or name)]
    try:
        pairs = sorted((int(parts[1]), int(parts[2])) for parts in mine)
    except ValueError:
        raise InvalidParameter(f"cannot use userns-remap: {path} has an invalid range of {name}") from None
    for outside, size in pairs:
        if size > 0:
            found.append(IdRange(inside, outside, size))
            inside += size
    if not found:
        raise InvalidParameter(
            f"cannot use userns-remap: {path} has no range of {name}. Add one: usermod --add-{path.rpartition('/')[2]}s "
            f"FIRST-LAST {name}"
        )
    if len(found) > _MOST:
        raise InvalidParameter(f"cannot use userns-remap: {path} has more than {_MOST} ranges of {name}")
    return tuple(found)
