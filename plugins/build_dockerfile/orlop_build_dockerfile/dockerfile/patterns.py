"""Patterns of `${name#pattern}` and `${name/pattern/text}`: "*", "?", characters, and escapes of these. As in BuildKit, a
star does not match a newline.

The text after a star matches at the first possible position. If the longest match is wanted, the text after the last star
matches at the last possible position instead. So for each part of the pattern, the time is linear in the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable

__all__ = ["Pattern"]


class Pattern:
    """A pattern. `size` is the number of its parts. Raises `ValueError` for an unknown escape."""

    def __init__(self, text: str) -> None:
        self._parts = list(_parts(text))
        self.size = len(self._parts)

    def trimmed(self, value: str, *, longest: bool, from_end: bool) -> str:
        """The value without the shortest or longest prefix (or suffix) that matches."""
        parts = self._parts
        if from_end:
            parts, value = parts[::-1], value[::-1]
        match = _compiled(parts, longest).match(value)
        rest = value[match.end() :] if match else value
        return rest[::-1] if from_end else rest

    def replaced(self, value: str, replacement: str, *, everywhere: bool, spend: Callable[[int], None]) -> str:
        """The value with its first match (or, with `everywhere`, all matches) replaced. `spend` is called with the size of
        the output."""
        matcher = _compiled(self._parts, longest=True)
        out: list[str] = []
        at = last = 0
        while at <= len(value) and (match := matcher.search(value, at)):
            at = match.end()
            if match.start() == match.end():
                at += 1
                if out and match.start() == last:  # an empty match directly after the previous match does not count
                    continue
            spend(len(replacement) + 1)
            out += [value[last : match.start()], replacement]
            last = match.end()
            if not everywhere:
                break
        return "".join(out) + value[last:]


def _parts(text: str) -> list[tuple[str, bool]]:
    """The parts of a pattern: characters, and whether they are wildcards."""
    parts: list[tuple[str, bool]] = []
    chars = iter(text)
    for char in chars:
        if char != "\\":
            parts.append((char, char in "*?"))
            continue
        escaped = next(chars, "")
        if escaped not in ("*", "?", "\\", "}", "/") or not escaped:
            raise ValueError(f"invalid escape '\\{escaped}'")
        parts.append((escaped, False))
    return parts


def _compiled(parts: list[tuple[str, bool]], longest: bool) -> re.Pattern[str]:
    pieces = [""]
    for char, wildcard in parts:
        if wildcard and char == "*":
            pieces.append("")
        else:
            pieces[-1] += "." if wildcard else re.escape(char)
    first, *rest = pieces
    inner = "".join(f"(?>.*?{piece})" for piece in (rest[:-1] if longest else rest) if piece)
    last = f".*{rest[-1]}" if rest and longest else ""
    return re.compile(first + inner + last)
