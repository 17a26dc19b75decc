"""Parser directives: `# syntax=`, `# escape=` and `# check=` at the beginning of a Dockerfile."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

import msgspec

from .interface import DockerfileError, Position, SourceRange

__all__ = ["Directive", "DirectiveReader", "find_syntax", "read_directives"]

_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9]*", re.ASCII)
_KNOWN = {"syntax", "escape", "check"}


class Directive(msgspec.Struct, frozen=True):
    name: str
    value: str
    line: int

    @property
    def ranges(self) -> tuple[SourceRange, ...]:
        return (SourceRange(Position(self.line), Position(self.line)),)


class DirectiveReader:
    """Reads lines in order, beginning with the first line. The first line that is not a directive ends the directives."""

    def __init__(self, comment: str = "#", line: int = 0) -> None:
        self._comment, self._line = comment, line
        self._seen: set[str] = set()
        self.done = False

    def line(self, text: str) -> Directive | None:
        self._line += 1
        if self.done:
            return None
        name, equals, value = text[len(self._comment) :].partition("=")
        name, value = name.strip().lower(), value.strip()
        if not text.startswith(self._comment) or not equals or not value or not _NAME.fullmatch(name) or name not in _KNOWN:
            self.done = True
            return None
        if name in self._seen:
            raise DockerfileError(f"only one {name} parser directive can be used", ranges=_at(self._line))
        self._seen.add(name)
        return Directive(name, value, self._line)


def _at(line: int) -> tuple[SourceRange, ...]:
    return (SourceRange(Position(line), Position(line)),)


def read_directives(text: str, comment: str = "#") -> dict[str, Directive]:
    """The directives at the beginning of a Dockerfile, after a byte order mark and a line that begins with "#!"."""
    text = text.removeprefix("\ufeff")
    first = 0
    if text.startswith("#!"):
        text = text.partition("\n")[2]
        first = 1
    reader = DirectiveReader(comment, first)
    return {found.name: found for found in _read(reader, text)}


def _read(reader: DirectiveReader, text: str) -> Iterable[Directive]:
    at = 0
    while not reader.done and at < len(text):
        end = text.find("\n", at)
        end = len(text) if end < 0 else end
        try:
            found = reader.line(text[at:end].removesuffix("\r"))
        except DockerfileError:
            return  # the parser reports the error
        if found:
            yield found
        at = end + 1


def find_syntax(text: str) -> Directive | None:
    """The value of `# syntax=`. In files of other frontends, it may also be the value of "// syntax=", or of the key
    "syntax" in a JSON object."""
    for comment in ("#", "//"):
        if found := read_directives(text, comment).get("syntax"):
            return found
    if text.lstrip("\ufeff \t\r\n").startswith("{"):
        try:
            value = json.loads(text.lstrip("\ufeff"))
        except (ValueError, RecursionError):
            return None
        if isinstance(value, dict) and isinstance(value.get("syntax"), str):
            return Directive("syntax", value["syntax"], 0)
    return None
