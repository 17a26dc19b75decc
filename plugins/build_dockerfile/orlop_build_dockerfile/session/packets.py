"""The fsutil protocol for sending directories: types of packets, and file modes in Go's form (`os.FileMode`).

The sender lists all entries as STAT packets, in the order of a walk, and ends the list with an empty STAT. The receiver
requests files by their position in the list (REQ, at any time after their STAT). The sender sends a file as DATA packets,
the last of which is empty. At the end, both sides send FIN.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from urllib.parse import quote_plus

__all__ = ["CHUNK", "DATA", "ERR", "FIN", "REQ", "STAT", "encode_metadata", "go_mode", "unix_mode"]

STAT, REQ, DATA, FIN, ERR = range(5)
CHUNK = 32 << 10  # bytes of a DATA packet, the same as fsutil's senders use

_DIR, _SYMLINK, _DEVICE, _PIPE, _SOCKET, _SETUID, _SETGID, _CHAR, _STICKY = (
    1 << n for n in (31, 27, 26, 25, 24, 23, 22, 21, 20)
)
_BITS = ((_SETUID, stat.S_ISUID), (_SETGID, stat.S_ISGID), (_STICKY, stat.S_ISVTX))
_TYPES = {
    0: stat.S_IFREG,
    _DIR: stat.S_IFDIR,
    _SYMLINK: stat.S_IFLNK,
    _DEVICE: stat.S_IFBLK,
    _DEVICE | _CHAR: stat.S_IFCHR,
    _PIPE: stat.S_IFIFO,
    _SOCKET: stat.S_IFSOCK,
}
_GO_TYPES = {unix: go for go, unix in _TYPES.items()}
_TYPE_MASK = _DIR | _SYMLINK | _DEVICE | _CHAR | _PIPE | _SOCKET


def unix_mode(mode: int) -> int:
    """Convert Go's mode to `st_mode`. Raises ValueError for an unknown type."""
    kind = _TYPES.get(mode & _TYPE_MASK)
    if kind is None:
        raise ValueError(f"unknown file mode {mode:#o}")
    for go, unix in _BITS:
        if mode & go:
            kind |= unix
    return kind | (mode & 0o777)


def go_mode(mode: int) -> int:
    """Convert `st_mode` to Go's mode."""
    result = _GO_TYPES[stat.S_IFMT(mode)] | (mode & 0o777)
    for go, unix in _BITS:
        if mode & unix:
            result |= go
    return result


def encode_metadata(name: str, values: Iterable[str]) -> list[tuple[str, str]]:
    """The headers for a list of options. If a header cannot contain one of the values of a name, all values of this name are
    sent encoded."""
    values = list(values)
    if all(value.isascii() and value.isprintable() and value == value.strip() for value in values):
        return [(name, value) for value in values]
    encoded = [quote_plus(value, errors="surrogateescape") for value in values]
    return [(f"{name}-encoded", "1"), *((name, value) for value in encoded)]
