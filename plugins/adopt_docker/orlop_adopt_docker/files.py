"""Reads files of a Docker root. The files are not trusted, so their size is limited, and links that lead out of the root are
not followed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from .bolt import Bolt, BoltError

__all__ = ["Unreadable", "bolt", "hex_names", "is_digest", "is_hex", "json", "text"]

_HEX = re.compile(r"[0-9a-f]{64}")
_DOCUMENT = 16 << 20
_DATABASE = 512 << 20


class Unreadable(ValueError):
    """A file is missing, too large, or damaged. The text contains the path and the reason."""


def is_hex(text: str) -> bool:
    return _HEX.fullmatch(text) is not None


def is_digest(text: str) -> bool:
    return text.startswith("sha256:") and is_hex(text.removeprefix("sha256:"))


def raw(path: str, limit: int = _DOCUMENT) -> bytes:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise Unreadable(f"cannot read {path}: {error.strerror}") from error
    if len(data) > limit:
        raise Unreadable(f"cannot read {path}: it is larger than {limit >> 20} MiB")
    return data


def text(path: str) -> str:
    """The content of a short file, without its line end; "" if the file does not exist."""
    if not os.path.lexists(path):
        return ""
    return raw(path).decode("utf-8", "replace").strip()


def json(path: str) -> dict[str, Any]:
    """Read a file that contains a JSON object."""
    try:
        return msgspec.json.decode(raw(path), type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise Unreadable(f"cannot read {path}: {error}") from error


def bolt(path: str) -> Bolt:
    try:
        return Bolt(raw(path, _DATABASE))
    except BoltError as error:
        raise Unreadable(f"cannot read {path}: {error}") from error


def hex_names(directory: str) -> Iterator[str]:
    """The entries of a directory whose names are IDs or digests, sorted. There are none if the directory does not exist."""
    try:
        found = sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return
    yield from (name for name in found if is_hex(name))
