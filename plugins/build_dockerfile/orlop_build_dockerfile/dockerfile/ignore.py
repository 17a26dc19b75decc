"""`.dockerignore`: its patterns, and which paths they exclude (moby/patternmatcher)."""

from __future__ import annotations

import posixpath
import re

import msgspec

__all__ = ["IgnorePatterns", "read_ignore_file"]


def read_ignore_file(data: bytes) -> list[str]:
    """The patterns of an ignore file, in the form that clients use: cleaned, and without comments. A "!" at the beginning
    stays."""
    patterns = []
    for number, line in enumerate(data.decode("utf-8", "surrogateescape").split("\n")):
        pattern = (line.removeprefix("\ufeff") if number == 0 else line).removesuffix("\r")
        if pattern.startswith("#"):
            continue
        pattern = pattern.strip()
        if not pattern:
            continue
        negated = pattern.startswith("!")
        if negated:
            pattern = pattern[1:].strip()
        if pattern:
            pattern = _clean(pattern)
            if len(pattern) > 1 and pattern.startswith("/"):
                pattern = pattern[1:]
        patterns.append(("!" if negated else "") + pattern)
    return patterns


def _clean(path: str) -> str:
    cleaned = posixpath.normpath(path)
    return "/" + cleaned.lstrip("/") if cleaned.startswith("/") else cleaned


class _Token(msgspec.Struct, frozen=True):
    """A part of a pattern. `kind` is "one" (a character that `chars` matches), "star" (any characters except a slash), "all"
    (any characters), or "deep" ("**/", any number of directories). A part of kind "deep" has two positions, one before it
    and one inside it."""

    kind: str
    chars: re.Pattern[str] | None = None


class _Pattern(msgspec.Struct, frozen=True):
    text: str
    negated: bool
    tokens: tuple[_Token, ...]

    def matches(self, path: str) -> bool:
        """Whether the pattern matches the path. The function tracks all possible positions in the pattern at the same time,
        so the time is at most proportional to the product of the two lengths."""
        places = self._closed({0})
        for char in path:
            places = self._closed({after for place in places for after in self._step(place, char)})
            if not places:
                return False
        return len(self.tokens) in places

    def _closed(self, places: set[int]) -> set[int]:
        waiting = list(places)
        while waiting:
            place = waiting.pop()
            kind = self.tokens[place].kind if place < len(self.tokens) else ""
            after = {"star": place + 1, "all": place + 1, "deep": place + 2}.get(kind, place)
            if after not in places:
                places.add(after)
                waiting.append(after)
        return places

    def _step(self, place: int, char: str) -> tuple[int, ...]:
        if place == len(self.tokens):
            return ()
        token = self.tokens[place]
        if token.kind == "one":
            assert token.chars is not None
            return (place + 1,) if token.chars.match(char) else ()
        if token.kind == "star":
            return () if char == "/" else (place,)
        if token.kind == "all":
            return (place,)
        inside, after = (place + 1, place + 2) if token.kind == "deep" else (place, place + 1)
        return (inside, after) if char == "/" else (inside,)


class IgnorePatterns:
    """The patterns of an ignore file. Raises `ValueError` for an invalid pattern."""

    def __init__(self, patterns: list[str]) -> None:
        self._patterns = [found for text in patterns if (found := _pattern(text))]
        self.has_exceptions = any(pattern.negated for pattern in self._patterns)
        self.texts = [pattern.text for pattern in self._patterns]

    def excludes(self, path: str) -> bool:
        """Whether a path is excluded. Of the patterns that match the path or a directory above it, the last one decides."""
        parts = path.split("/")
        above = ["/".join(parts[:end]) for end in range(1, len(parts))]
        excluded = False
        for pattern in self._patterns:
            if pattern.negated != excluded:
                continue  # a match has no effect
            if any(pattern.matches(candidate) for candidate in (*above, path)):
                excluded = not pattern.negated
        return excluded


def _pattern(text: str) -> _Pattern | None:
    text = text.strip()
    if not text:
        return None
    negated = text.startswith("!")
    body = text[1:] if negated else text
    if negated and not body:
        raise ValueError('illegal exclusion pattern: "!"')
    body = posixpath.normpath(body)
    return _Pattern(body, negated, tuple(_tokens(body)))


def _tokens(pattern: str) -> list[_Token]:
    out: list[_Token] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "*" and pattern[at : at + 1] == "*":
            while pattern[at : at + 1] == "*":
                at += 1
            if pattern[at : at + 1] == "/" and at + 1 < len(pattern):
                at += 1
                out += [_Token("deep"), _Token("inside")]
            else:
                out.append(_Token("all"))
        elif char == "*":
            out.append(_Token("star"))
        elif char == "[":
            end = _class_end(pattern, at)
            out.append(_one(_character_class(pattern[at:end])))
            at = end + 1
        elif char == "\\":
            if at >= len(pattern):
                raise ValueError("syntax error in pattern")
            out.append(_one(re.escape(pattern[at])))
            at += 1
        else:
            out.append(_one("[^/]" if char == "?" else re.escape(char)))
    return out


def _one(expression: str) -> _Token:
    try:
        return _Token("one", re.compile(expression, re.DOTALL))
    except re.error:
        raise ValueError("syntax error in pattern") from None


def _class_end(pattern: str, at: int) -> int:
    end = at + 1 if pattern[at : at + 1] == "^" else at
    first = end
    while end < len(pattern) and (pattern[end] != "]" or end == first):
        end += 2 if pattern[end] == "\\" else 1
    if end >= len(pattern):
        raise ValueError("syntax error in pattern")
    return end


def _character_class(inner: str) -> str:
    negated = inner.startswith("^")
    body = inner[1:] if negated else inner
    out = []
    at = 0
    while at < len(body):
        if body[at] == "\\":
            at += 1
            out.append(re.escape(body[at : at + 1]))
        elif body[at] == "-" and 0 < at < len(body) - 1:
            out.append("-")
        else:
            out.append(re.escape(body[at]))
        at += 1
    return f"[{'^' if negated else ''}{''.join(out)}]"
