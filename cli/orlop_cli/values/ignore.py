"""`.dockerignore`: finds the files of a directory that are not part of a build's context (moby/patternmatcher)."""

from __future__ import annotations

import posixpath
import re

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Sequence


__all__ = ["Ignore", "parse"]

_CLASS = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]")


class Ignore:
    """Patterns in the order of the file. Of the patterns that match a path or a directory above it, the last one decides."""

    def __init__(self, patterns: Sequence[str]) -> None:
        """Raises ValueError for an invalid pattern."""
        self._rules = [(text.startswith("!"), _compiled(text.removeprefix("!"))) for text in patterns]
        self.has_exceptions = any(negated for negated, _ in self._rules)

    def excludes(self, path: str) -> bool:
        """Whether the file is excluded. `path` is relative, with slashes."""
        parts = path.split("/")
        candidates = ["/".join(parts[:end]) for end in range(len(parts), 0, -1)]
        for negated, pattern in reversed(self._rules):
            if any(pattern.fullmatch(candidate) for candidate in candidates):
                return not negated
        return False


def parse(data: bytes) -> list[str]:
    """The patterns of a file, cleaned, without comments and empty lines."""
    found = []
    for line in data.decode("utf-8", "surrogateescape").removeprefix("\ufeff").split("\n"):
        text = line.strip()
        if not text or line.startswith("#"):
            continue
        negated = text.startswith("!")
        body = text.removeprefix("!").strip()
        if body:
            body = posixpath.normpath(body).lstrip("/") or "/"
        found.append(("!" if negated else "") + body)
    return found


def _compiled(pattern: str) -> re.Pattern[str]:
    if not pattern:
        raise ValueError('illegal exclusion pattern: "!"')
    out, at = "", 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "*" and pattern.startswith("*", at):
            at = len(pattern) - len(pattern[at:].lstrip("*"))
            if pattern.startswith("/", at) and at + 1 < len(pattern):
                at += 1
                out += "(?:.*/)?"
            else:
                out += ".*"
        elif char == "*":
            out += "[^/]*"
        elif char == "?":
            out += "[^/]"
        elif char == "[":
            match = _CLASS.match(pattern, at - 1)
            if match is None:
                raise ValueError(f"syntax error in pattern {pattern}")
            at = match.end()
            out += match[0]
        elif char == "\\":
            if at == len(pattern):
                raise ValueError(f"syntax error in pattern {pattern}")
            out += re.escape(pattern[at])
            at += 1
        else:
            out += re.escape(char)
    try:
        return re.compile(out, re.DOTALL)
    except re.error:
        raise ValueError(f"syntax error in pattern {pattern}") from None
