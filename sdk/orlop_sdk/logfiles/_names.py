"""The names of a log's files. PATH.1 is the newest rotated file; a compressed file has `.gz` after its number."""

from __future__ import annotations

import os

__all__ = ["numbered", "rotated"]


def rotated(path: str, number: int, *, packed: bool = False) -> str:
    return f"{path}.{number}.gz" if packed else f"{path}.{number}"


def numbered(path: str) -> dict[int, str]:
    """The existing rotated files, by number. If a crash left both a plain and a compressed file, the plain file is returned,
    because it is complete."""
    directory, base = os.path.split(path)
    found: dict[int, str] = {}
    try:
        names = os.listdir(directory or ".")
    except FileNotFoundError:
        return {}
    for name in sorted(names, reverse=True):  # NAME.1.gz comes before NAME.1, so NAME.1 replaces it in the dict
        if name.startswith(base + "."):
            number = name[len(base) + 1 :].removesuffix(".gz")
            if number.isascii() and number.isdigit():
                found[int(number)] = os.path.join(directory, name)
    return found
