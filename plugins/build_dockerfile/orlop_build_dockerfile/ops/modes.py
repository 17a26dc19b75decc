"""Modes in the syntax of chmod(1): "755", "u+x,go-w", "a=rX". All functions are pure."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable

__all__ = ["mode_function"]

_CLAUSE = re.compile(r"([ugoa]*)((?:[-+=](?:[rwxXst]*|[ugo]))+)")
_ACTION = re.compile(r"([-+=])([ugo]|[rwxXst]*)")
_SHIFT = {"u": 6, "g": 3, "o": 0}
_SPECIAL = {"u": stat.S_ISUID, "g": stat.S_ISGID, "o": stat.S_ISVTX}
_BITS = {"r": 4, "w": 2, "x": 1}


def mode_function(text: str) -> Callable[[int], int]:
    """A function that computes the new permissions from a file's `st_mode`. Raises ValueError."""
    if re.fullmatch(r"[0-7]{1,5}", text, re.ASCII) and int(text, 8) <= 0o7777:
        value = int(text, 8)
        return lambda mode: value
    clauses = text.split(",")
    if not text or not all(_CLAUSE.fullmatch(clause) for clause in clauses):
        raise ValueError(f"invalid mode: {text}")

    def apply(mode: int) -> int:
        for clause in clauses:
            match = _CLAUSE.fullmatch(clause)
            assert match is not None
            who = match[1].replace("a", "ugo") or "ugo"
            for sign, what in _ACTION.findall(match[2]):
                mode = _apply(mode, who, sign, what)
        return stat.S_IMODE(mode)

    return apply


def _apply(mode: int, who: str, sign: str, what: str) -> int:
    if what in _SHIFT:
        bits = mode >> _SHIFT[what] & 7
    else:
        bits = sum(_BITS[letter] for letter in set(what) if letter in _BITS)
        if "X" in what and (stat.S_ISDIR(mode) or mode & 0o111):
            bits |= 1
    wanted = cleared = 0
    for each in set(who):
        wanted |= bits << _SHIFT[each]
        cleared |= 7 << _SHIFT[each]
    if "s" in what:
        wanted |= (stat.S_ISUID if "u" in who else 0) | (stat.S_ISGID if "g" in who else 0)
    if "t" in what:
        wanted |= stat.S_ISVTX
    if sign == "+":
        return mode | wanted
    if sign == "-":
        return mode & ~wanted
    cleared |= sum(bit for each, bit in _SPECIAL.items() if each in who)
    return mode & ~cleared | wanted
