"""The list of a directory's last transfer, in a file next to the directory.

If the sender's next list is the same, byte for byte, the directory is unchanged, and need not be read. The file is removed
before a transfer changes the directory, and written when the transfer is complete, so an interrupted transfer leaves no
file. The list is valid until the next boot, because a power cut may lose listed files.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Sequence

import msgspec

__all__ = ["LIMIT", "LastList", "forget", "load", "save"]

LIMIT = 64 << 20  # limit for the bytes of packets; longer lists are not kept


class LastList(msgspec.Struct, frozen=True, array_like=True):
    """`packets` are the received STAT packets, the last of which is empty. `directory` is the inode and the device of the
    directory. `state` is a random name for the content of the directory."""

    boot: str
    directory: tuple[int, int]
    state: str
    packets: list[bytes]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(LastList).decode


def _boot() -> str:
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def _identity(directory: int) -> tuple[int, int]:
    info = os.fstat(directory)
    return info.st_ino, info.st_dev


def load(path: str, directory: int) -> LastList | None:
    """The list of the directory (a file descriptor), if there is a valid list."""
    try:
        with open(path, "rb") as file:
            found = _decode(file.read())
        return found if (found.boot, found.directory) == (_boot(), _identity(directory)) else None
    except (OSError, msgspec.DecodeError):
        return None


def save(path: str, directory: int, packets: Sequence[bytes]) -> str:
    """Store a list. Returns the name of the directory's state, "" if the list cannot be stored."""
    state = secrets.token_hex(16)
    try:
        with open(path + ".new", "wb") as file:
            file.write(_encode(LastList(_boot(), _identity(directory), state, list(packets))))
        os.rename(path + ".new", path)
    except OSError:
        return ""
    return state


def forget(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
