"""Parses the text of a Dockerfile to instructions with their arguments: lines, continuations, comments, heredocs.

The rules are the same as in buildkit frontend/dockerfile/parser, which keeps rules of early versions. Whitespace at the
beginning of a continued line stays. Comments and (with a warning) empty lines between continued lines are ignored.
"""

from __future__ import annotations

import re

import msgspec

from .arguments import Arguments, parse_arguments, split_instruction
from .directives import DirectiveReader, read_directives
from .heredocs import Heredoc, heredocs_of_line
from .interface import DockerfileError, Position, SourceRange
from .limits import MAX_INSTRUCTIONS, Budget
from .words import WordError

__all__ = ["Lines", "Node", "Parsed", "parse", "parse_node"]

_MOST_RANGES = 1000
_FLAG = 1000  # each flag counts as this many characters, because a mount becomes messages and paths
_HEREDOCS = {"add", "copy", "run"}
_GO_SPACE = " \t\n\v\f\r\x85\xa0"


class Lines(msgspec.Struct, frozen=True):
    """A range of lines of the file, from `first` to `last`. Lines count from 1."""

    start: int
    end: int

    @property
    def ranges(self) -> tuple[SourceRange, ...]:
        """One range for each line, as in BuildKit. If there are very many lines, one range for all."""
        end = max(self.start, self.end)
        if end - self.start >= _MOST_RANGES:
            return (SourceRange(Position(self.start), Position(end)),)
        return tuple(SourceRange(Position(line), Position(line)) for line in range(self.start, end + 1))


class Node(msgspec.Struct, frozen=True):
    """An instruction. `name` has the spelling of the file, `original` is its logical line, `comments` are the comments
    directly before it."""

    name: str
    flags: tuple[str, ...]
    arguments: Arguments
    original: str
    lines: Lines
    heredocs: tuple[Heredoc, ...] = ()
    comments: tuple[str, ...] = ()


class Parsed(msgspec.Struct, frozen=True):
    """`empty_continuations` are the last lines of instructions with empty lines in them."""

    nodes: tuple[Node, ...]
    escape: str
    empty_continuations: tuple[Lines, ...]


class _Physical:
    """The lines of a text with their line ends, and the number of the line that was read last."""

    def __init__(self, text: str) -> None:
        self._text, self._at, self.number = text, 0, 0

    def next(self) -> str | None:
        if self._at >= len(self._text):
            return None
        end = self._text.find("\n", self._at) + 1 or len(self._text)
        line, self._at = self._text[self._at : end], end
        self.number += 1
        return line


def parse(text: str, budget: Budget) -> Parsed:
    """Parse a Dockerfile. Raises `DockerfileError` with the lines of the error."""
    return _Parser(text, budget).parse()


class _Parser:
    def __init__(self, text: str, budget: Budget) -> None:
        self._has_bad_bytes = not _is_utf8(text)
        self._lines = _Physical(text.removeprefix("\ufeff"))
        self._budget = budget
        self._directives = DirectiveReader()
        self._set_escape("\\")
        self._comments: list[str] = []
        self._empty: list[Lines] = []

    def _set_escape(self, escape: str) -> None:
        self.escape = escape
        token = re.escape(escape)
        # Two escape characters at the end of a line mean one literal character, and no continuation
        self._continued = re.compile(f"(?:(?<=[^{token}])|^){token}[ \t]*$")

    def parse(self) -> Parsed:
        nodes = []
        while (line := self._lines.next()) is not None:
            node = self._instruction(line)
            if node is not None:
                nodes.append(node)
                self._comments = []
            if len(nodes) > MAX_INSTRUCTIONS:
                raise DockerfileError(f"a Dockerfile cannot have more than {MAX_INSTRUCTIONS} instructions", code=8)
        if not nodes:
            raise DockerfileError("file with no instructions", ranges=Lines(self._lines.number, 0).ranges)
        return Parsed(tuple(nodes), self.escape, tuple(self._empty))

    def _instruction(self, line: str) -> Node | None:
        text = line.rstrip("\r\n").lstrip(_GO_SPACE)
        is_directive = self._directive(text)
        is_comment = text.startswith("#")
        if is_comment:
            comment = "" if is_directive else text[1:].strip()
            if comment:
                self._comments.append(comment)
            else:
                self._comments = []
            text = ""
        start = self._lines.number
        logical, ended = self._trimmed(text)
        if ended and not logical:
            if not is_comment:
                self._comments = []
            return None
        if not ended:
            logical = self._continuations(logical)
        return self._node(logical, start)

    def _directive(self, text: str) -> bool:
        found = self._directives.line(text)
        if found is None or found.name != "escape":
            return found is not None
        if found.value not in ("`", "\\"):
            raise DockerfileError(f"invalid escape token '{found.value}' does not match ` or \\", ranges=found.ranges)
        self._set_escape(found.value)
        return True

    def _trimmed(self, line: str) -> tuple[str, bool]:
        """Returns the line without its continuation character, and true if the line had no continuation character."""
        match = self._continued.search(line)
        return (line, True) if match is None else (line[: match.start()], False)

    def _continuations(self, first: str) -> str:
        parts = [first]
        ended = empty = False
        while not ended and (line := self._lines.next()) is not None:
            text = line.rstrip("\r\n")
            stripped = text.lstrip(_GO_SPACE)
            if stripped.startswith("#"):
                continue
            if not stripped:
                empty = True
                continue
            part, ended = self._trimmed(text)
            parts.append(part)
        if empty:
            self._empty.append(Lines(self._lines.number, self._lines.number))
        return "".join(parts)

    def _node(self, logical: str, start: int) -> Node:
        self._budget.spend(len(logical))
        if self._has_bad_bytes and not _is_utf8(logical):
            ranges = Lines(start, self._lines.number).ranges
            raise DockerfileError("this instruction is not valid UTF-8", ranges=ranges)
        try:
            node = parse_node(logical, self.escape, Lines(start, self._lines.number), tuple(self._comments))
            self._budget.spend(_FLAG * len(node.flags))
            if not _takes_heredocs(node):
                return node
            heredocs = tuple(self._content(heredoc) for heredoc in heredocs_of_line(logical, self._budget))
        except (ValueError, WordError) as error:
            raise DockerfileError(str(error), ranges=Lines(start, self._lines.number).ranges) from None
        return msgspec.structs.replace(node, heredocs=heredocs, lines=Lines(start, self._lines.number))

    def _content(self, heredoc: Heredoc) -> Heredoc:
        lines: list[str] = []
        while (line := self._lines.next()) is not None:
            text = line.rstrip("\r\n")
            if (text.lstrip("\t") if heredoc.chomp else text) == heredoc.name:
                return msgspec.structs.replace(heredoc, content="".join(lines))
            lines.append(line)
        raise ValueError("unterminated heredoc")


def _is_utf8(text: str) -> bool:
    """Whether all bytes are UTF-8. Bytes that are not UTF-8 are surrogates in the text; they are allowed only in comments
    and in heredoc files."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _takes_heredocs(node: Node) -> bool:
    if node.name.lower() == "onbuild":
        return node.arguments.child in _HEREDOCS and not node.arguments.json
    return node.name.lower() in _HEREDOCS and not node.arguments.json


def parse_node(line: str, escape: str, lines: Lines, comments: tuple[str, ...] = ()) -> Node:
    """Parse one logical line. Raises `ValueError` with the reason if its arguments are invalid."""
    name, flags, rest = split_instruction(line)
    return Node(name, flags, parse_arguments(name.lower(), rest, escape), line, lines, (), comments)


def read_check(text: str) -> str:
    """The value of `# check=`."""
    found = read_directives(text).get("check")
    return found.value if found else ""
