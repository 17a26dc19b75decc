"""Regular expressions that clients send as filters.

They are matched on the event loop's thread. Some expressions never end in practice, because a nested repetition has
exponentially many ways to fail (catastrophic backtracking). Docker does not have this problem, because Go's expressions take
linear time. Orlop checks expressions before it uses them.
"""

from __future__ import annotations

import re

from orlop_sdk import InvalidParameter

__all__ = ["compiled"]

_LONGEST = 256
_MOST_REPEATS = 4  # limit for one sequence, because each repeat multiplies the attempts by the length of a name
_MOST_OPTIONAL = 8  # limit, because each optional part doubles the attempts
_PIECE = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?[^):=!<P]*:?|\{\d*,?\d*\}|.", re.DOTALL)


def _is_costly(text: str) -> bool:
    """Whether an ambiguous group is repeated, or the number of attempts is too large."""
    repeats = optional = 0
    # one item for each open group, the innermost group last: whether the group can match in more than one way
    groups = [False]
    closed = False  # whether the previous piece closed an ambiguous group
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
            return True  # the piece is a backreference
        closed = False
    return repeats > _MOST_REPEATS or optional > _MOST_OPTIONAL


def compiled(text: str) -> re.Pattern[str] | None:
    """Compile a pattern; None when it is invalid. Raises `InvalidParameter` if matching could take too long."""
    if len(text) > _LONGEST or _is_costly(text):
        raise InvalidParameter(f"invalid filter: the pattern {text[:60]!r} could take too long to match")
    try:
        return re.compile(text)
    except (re.error, OverflowError, RecursionError):
        return None
