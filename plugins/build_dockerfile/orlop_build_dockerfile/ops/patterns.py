"""Patterns of paths, as in .dockerignore (moby/patternmatcher) and in COPY (Go's `filepath.Match`). All functions are pure,
except that a match ends with `trio.Cancelled` in a thread whose build has been cancelled."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from .cancelling import checkpoint

__all__ = ["Matcher", "glob_match", "has_wildcard"]

# After this number of patterns, the code checks whether the build was cancelled. With a long path, a pattern takes
# milliseconds
_OFTEN = 16


def has_wildcard(path: str) -> bool:
    return any(letter in path for letter in "*?[\\")


@lru_cache(maxsize=1024)
def _component(pattern: str) -> re.Pattern[str]:
    """A pattern for one component of a path. Raises ValueError.

    The text between two stars is matched only at the first possible position. This gives the right result for the whole
    pattern, and prevents exponential time in the number of stars."""
    runs, at = [""], 0
    while at < len(pattern):
        letter = pattern[at]
        at += 1
        if letter == "*":
            runs.append("")
        elif letter == "?":
            runs[-1] += "."
        elif letter == "[":
            text, at = _class(pattern, at)
            runs[-1] += text
        elif letter == "\\":
            if at == len(pattern):
                raise ValueError(f"syntax error in pattern: {pattern}")
            runs[-1] += re.escape(pattern[at])
            at += 1
        else:
            runs[-1] += re.escape(letter)
    first, *stars = runs
    text = first + "".join(f"(?>.*?{run})" for run in stars[:-1]) + (f".*{stars[-1]}" if stars else "")
    try:
        return re.compile(text, re.DOTALL)
    except re.error:
        raise ValueError(f"syntax error in pattern: {pattern}") from None


class _Path:
    """A pattern for a path. A component "**" matches any number of components. At the end of the pattern, it matches at
    least one component."""

    def __init__(self, pattern: str) -> None:
        self._parts: list[re.Pattern[str] | None] = []
        for part in pattern.split("/"):
            if part != "**":
                self._parts.append(_component(part))
            elif not self._parts or self._parts[-1] is not None:
                self._parts.append(None)

    def match(self, path: str) -> bool:
        """Whether the pattern matches the path. All possible positions in the pattern are tracked at the same time, so the
        time is at most proportional to the product of the two lengths."""
        last = len(self._parts)
        states = {0}
        for name in path.split("/"):
            after = set()
            for state in self._entered(states):
                part = self._parts[state] if state < last else _NOTHING
                if part is None:
                    after.add(state)
                    if state + 1 == last:
                        after.add(last)
                elif part.fullmatch(name) is not None:
                    after.add(state + 1)
            states = after
        return last in states

    def _entered(self, states: set[int]) -> set[int]:
        """The positions, and the positions that are reached if a "**" matches no component."""
        found = set(states)
        for state in states:
            if state + 1 < len(self._parts) and self._parts[state] is None:
                found.add(state + 1)
        return found


_NOTHING = re.compile(r"(?!)")


def _class(pattern: str, at: int) -> tuple[str, int]:
    negated = pattern.startswith("^", at)
    at += negated
    parts: list[str] = []
    while True:
        if at >= len(pattern):
            raise ValueError(f"syntax error in pattern: {pattern}")
        if pattern[at] == "]" and parts:
            break
        low, at = _letter(pattern, at)
        high = low
        if pattern.startswith("-", at) and not pattern.startswith("-]", at):
            high, at = _letter(pattern, at + 1)
        parts.append(f"{re.escape(low)}-{re.escape(high)}" if low != high else re.escape(low))
    return ("[^" if negated else "[") + "".join(parts) + "]", at + 1


def _letter(pattern: str, at: int) -> tuple[str, int]:
    at += pattern.startswith("\\", at)
    if at >= len(pattern) or pattern[at] in "-]":
        raise ValueError(f"syntax error in pattern: {pattern}")
    return pattern[at], at + 1


def glob_match(pattern: str, path: str) -> bool:
    """Match like Go's `filepath.Match`."""
    parts, names = pattern.split("/"), path.split("/")
    found = [_component(part).fullmatch(name) is not None for part, name in zip(parts, names, strict=False)]
    return len(parts) == len(names) and all(found)


class Matcher:
    """A list of patterns. The last matching pattern decides; "!" before a pattern negates it. A pattern that matches a
    directory also matches all paths below it. Raises ValueError for an invalid pattern."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns: list[tuple[bool, _Path]] = []
        for text in patterns:
            pattern = text.strip()
            negated = pattern.startswith("!")
            pattern = os.path.normpath(pattern[negated:].strip() or ".").lstrip("/")
            if pattern in (".", "") and not negated:
                continue
            self._patterns.append((negated, _Path(pattern)))

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def match(self, path: str) -> bool:
        return self.match_below(path, ())[0]

    def match_below(self, path: str, above: Sequence[bool]) -> tuple[bool, tuple[bool, ...]]:
        """Returns whether a path matches, and a list that tells which patterns match it or a directory above it. `above` is
        the list that this method has returned for the directory of the path; () for the top."""
        matched, each = False, []
        for number, (negated, pattern) in enumerate(self._patterns):
            if number % _OFTEN == 0:
                checkpoint()
            hit = (number < len(above) and above[number]) or pattern.match(path)
            if not hit and not above and "/" in path:
                hit = any(pattern.match(parent) for parent in _parents(path))
            each.append(hit)
            if hit:
                matched = not negated
        return matched, tuple(each)


def _parents(path: str) -> Iterable[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path
