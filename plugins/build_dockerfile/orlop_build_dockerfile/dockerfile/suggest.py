"""Suggestions for words that are misspelled: "did you mean RUN?"."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

__all__ = ["nearest", "suggestion"]

_FARTHEST = 2
_LONGEST = 100
_MOST = 1000


def nearest(word: str, options: Iterable[str], *, ignore_case: bool = False) -> str:
    """The option that differs from `word` by at most two edits. "" if there is no such option, or if `word` is an option
    itself."""
    wanted = word.lower() if ignore_case else word
    best, best_distance = "", _FARTHEST + 1
    if len(wanted) > _LONGEST:
        return ""
    for option in itertools.islice(options, _MOST):
        candidate = option.lower() if ignore_case else option
        if candidate == wanted:
            return ""
        if abs(len(candidate) - len(wanted)) < best_distance:
            distance = _distance(wanted, candidate)
            if distance < best_distance:
                best, best_distance = candidate, distance
    if best and ignore_case:
        return best.upper() if word == word.upper() and word != word.lower() else best.lower()
    return best


def suggestion(word: str, options: Iterable[str], *, ignore_case: bool = False) -> str:
    """The suggestion as the end of a message."""
    found = nearest(word, options, ignore_case=ignore_case)
    return f" (did you mean {found}?)" if found else ""


def _distance(one: str, other: str) -> int:
    """Levenshtein's distance."""
    row = list(range(len(other) + 1))
    for number, char in enumerate(one, 1):
        diagonal, row[0] = row[0], number
        for at, against in enumerate(other, 1):
            diagonal, row[at] = row[at], min(row[at] + 1, row[at - 1] + 1, diagonal + (char != against))
    return row[-1]
