"""Patterns of paths, as in .dockerignore (moby/patternmatcher) and in COPY (Go's `filepath.Match`). Pure functions."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

__all__ = ["Matcher", "glob_match", "has_wildcard"]


def has_wildcard(path: str) -> bool:
    return any(letter in path for letter in "*?[\\")


@lru_cache(maxsize=1024)
def _glob(pattern: str, *, recursive: bool) -> re.Pattern[str]:
    """`*` and `?` do not match "/". With `recursive`, `**` matches any number of components. Raises ValueError."""
    out, at = [], 0
    while at < len(pattern):
        letter = pattern[at]
        at += 1
        if letter == "*":
            if recursive and pattern.startswith("*", at):
                at += 1
                if pattern.startswith("/", at):
                    at += 1
                out.append(".*" if at == len(pattern) else "(?:.*/)?")
            else:
                out.append("[^/]*")
        elif letter == "?":
            out.append("[^/]")
        elif letter == "[":
            text, at = _class(pattern, at)
            out.append(text)
        elif letter == "\\":
            if at == len(pattern):
                raise ValueError(f"syntax error in pattern: {pattern}")
            out.append(re.escape(pattern[at]))
            at += 1
        else:
            out.append(re.escape(letter))
    try:
        return re.compile("".join(out), re.DOTALL)
    except re.error:
        raise ValueError(f"syntax error in pattern: {pattern}") from None


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
    return ("(?!/)[^" if negated else "(?!/)[") + "".join(parts) + "]", at + 1


def _letter(pattern: str, at: int) -> tuple[str, int]:
    at += pattern.startswith("\\", at)
    if at >= len(pattern) or pattern[at] in "-]":
        raise ValueError(f"syntax error in pattern: {pattern}")
    return pattern[at], at + 1


def glob_match(pattern: str, path: str) -> bool:
    """Go's `filepath.Match`."""
    return _glob(pattern, recursive=False).fullmatch(path) is not None


class Matcher:
    """A list of patterns, of which the last that matches decides; "!" before a pattern negates it. A pattern that matches a
    directory matches what is below it. Raises ValueError for a bad pattern."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns: list[tuple[bool, re.Pattern[str]]] = []
        for text in patterns:
            pattern = text.strip()
            negated = pattern.startswith("!")
            pattern = os.path.normpath(pattern[negated:].strip() or ".").lstrip("/")
            if pattern in (".", "") and not negated:
                continue
            self._patterns.append((negated, _glob(pattern, recursive=True)))

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def match(self, path: str) -> bool:
        return self.match_below(path, ())[0]

    def match_below(self, path: str, above: Sequence[bool]) -> tuple[bool, tuple[bool, ...]]:
        """Whether a path matches, and which patterns match it or a directory above it. `above` is the second value for its
        directory, () at the top."""
        matched, each = False, []
        for number, (negated, pattern) in enumerate(self._patterns):
            hit = (number < len(above) and above[number]) or pattern.fullmatch(path) is not None
            if not hit and not above and "/" in path:
                hit = any(pattern.fullmatch(parent) is not None for parent in _parents(path))
            each.append(hit)
            if hit:
                matched = not negated
        return matched, tuple(each)


def _parents(path: str) -> Iterable[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path
