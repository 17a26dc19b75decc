"""Regular expressions that clients send as filters.

They run in the daemon's only thread, and some would run for ever there: a repetition within a repetition has exponentially
many ways to fail. Docker's expressions know no such trouble (Go's take linear time); ours are looked at before they are
used.
"""

from __future__ import annotations

import re

from orlop_sdk import InvalidParameter

__all__ = ["compiled"]

_LONGEST = 256
_MOST_REPEATS = 4  # one after the other, each multiplies the ways by the length of a name
_MOST_OPTIONAL = 8  # and each of these by two
_PIECE = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?[^):=!<P]*:?|\{\d*,?\d*\}|.", re.DOTALL)


def _is_costly(text: str) -> bool:
    """Whether a group that can match in more than one way is repeated, or there is too much to try."""
    repeats = optional = 0
    groups = [False]  # whether a group has more than one way, innermost last
    closed = False  # what stands just before is such a group
    for piece in _PIECE.findall(text):
        if piece == ")" and len(groups) > 1:
            closed = groups.pop()
            groups[-1] = groups[-1] or closed
            continue
        if piece in ("*", "+") or (piece[0] == "{" and len(piece) > 2):
            if closed:
                return True
            repeats += 1
            groups[-1] = True
        elif piece == "?":
            optional += 1
            groups[-1] = True
        elif piece == "|":
            groups[-1] = True
        elif piece[0] == "(":
            groups.append(False)
        elif piece[0] == "\\" and piece[1:].isdigit():
            return True  # what was matched before, again
        closed = False
    return repeats > _MOST_REPEATS or optional > _MOST_OPTIONAL


def compiled(text: str) -> re.Pattern[str] | None:
    """None for what is no regular expression. Raises `InvalidParameter` for one that could take too long."""
    if len(text) > _LONGEST or _is_costly(text):
        raise InvalidParameter(f"invalid filter: the pattern {text[:60]!r} could take too long to match")
    try:
        return re.compile(text)
    except (re.error, OverflowError, RecursionError):
        return None
