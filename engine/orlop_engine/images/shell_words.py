"""Words of Dockerfile instructions: quotes, escapes and variables (buildkit frontend/dockerfile/shell/lex.go). This module
does no I/O.

The input comes from a client, and each variable can double the length of the text. So the work of an `Expander` is counted
and limited, and patterns match in linear time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from orlop_sdk import InvalidParameter

__all__ = ["Expander"]

_STEPS = 1 << 20
_DEPTH = 50
_NAME = re.compile(r"[0-9]+|[@*#?\-$!]|[^\W\d]\w*")
_MODIFIERS = "+-?#%"


class _Failure(Exception):
    """A syntax error in a word."""


class _Text:
    """The text being parsed, and the current position."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def next(self) -> str:
        self.at += 1
        return self.text[self.at - 1 : self.at]


class Expander:
    """Expands words with the variables of `env`, which may change between two calls."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self._left = _STEPS

    def word(self, text: str) -> str:
        """Expand to one word. Raises `InvalidParameter` with buildkit's messages."""
        return "".join(piece for piece, _ in self._process(text))

    def words(self, text: str) -> list[str]:
        """Expand, and split at spaces that are neither quoted nor escaped. A variable's value may contain several
        words."""
        out: list[str] = []
        open_word = False
        for piece, raw in self._process(text):
            parts = [piece] if raw else re.split(r"\s+", piece)
            for number, part in enumerate(parts):
                if number:
                    open_word = False
                if part or raw:
                    if open_word:
                        out[-1] += part
                    else:
                        out.append(part)
                    open_word = True
        return out

    def _process(self, text: str) -> list[tuple[str, bool]]:
        try:
            return self._until(_Text(text), "", False, 0)
        except _Failure as error:
            raise InvalidParameter(f'failed to process "{_escaped(text)}": {error}') from None

    def _spend(self, steps: int) -> None:
        self._left -= steps
        if self._left < 0:
            raise _Failure("expansion is too large")

    def _until(self, text: _Text, stop: str, raw_escapes: bool, depth: int) -> list[tuple[str, bool]]:
        """The pieces up to the character `stop`, or up to the end of the text. Each piece has a flag: True means that the
        piece is literal, False that it may be split at spaces."""
        if depth > _DEPTH:
            raise _Failure("expansion is nested too deeply")
        pieces: list[tuple[str, bool]] = []
        while char := text.peek():
            self._spend(1)
            if char == stop:
                text.next()
                return pieces
            if char == "'":
                pieces.append((self._single_quoted(text), True))
            elif char == '"':
                pieces.append((self._double_quoted(text, depth), True))
            elif char == "$":
                pieces.append((self._variable(text, depth), False))
            elif text.next() == "\\":
                escaped = text.next()
                pieces.append((("\\" if raw_escapes else "") + escaped, True))
            else:
                pieces.append((char, False))
        if stop:
            raise _Failure(f"unexpected end of statement while looking for matching {stop}")
        return pieces

    def _single_quoted(self, text: _Text) -> str:
        end = text.text.find("'", text.at + 1)
        if end < 0:
            raise _Failure("unexpected end of statement while looking for matching single-quote")
        inner = text.text[text.at + 1 : end]
        text.at = end + 1
        return inner

    def _double_quoted(self, text: _Text, depth: int) -> str:
        text.next()
        out: list[str] = []
        while char := text.peek():
            self._spend(1)
            if char == "$":
                out.append(self._variable(text, depth))
                continue
            text.next()
            if char == '"':
                return "".join(out)
            if char == "\\" and text.peek() in ('"', "$", "\\", ""):
                char = text.next()
            out.append(char)
        raise _Failure("unexpected end of statement while looking for matching double-quote")

    def _variable(self, text: _Text, depth: int) -> str:
        text.next()
        if text.peek() == "{":
            text.next()
            return self._braced(text, depth)
        name = self._name(text)
        return self._value(name) or "" if name else "$"

    def _name(self, text: _Text) -> str:
        match = _NAME.match(text.text, text.at)
        if match is None:
            return ""
        text.at = match.end()
        return match[0]

    def _value(self, name: str) -> str | None:
        value = self._env.get(name)
        self._spend(len(value or ""))
        return value

    def _braced(self, text: _Text, depth: int) -> str:
        if not text.peek():
            raise _Failure("syntax error: missing '}'")
        if text.peek() in "{}:":
            raise _Failure("syntax error: bad substitution")
        value = self._value(name := self._name(text))
        modifier = text.next()
        if modifier == "}":
            return value or ""
        if modifier == "/":
            return self._replaced(text, value or "", depth)
        colon = modifier == ":"
        if colon:
            modifier = text.next()
        if not modifier or modifier not in _MODIFIERS:
            raise _Failure(f"unsupported modifier ({':' if colon else ''}{modifier}) in substitution")
        word = self._inner(text, "}", modifier in "#%", depth)
        return self._modified(name, value, modifier, word, null_is_unset=colon)

    def _inner(self, text: _Text, stop: str, raw_escapes: bool, depth: int) -> str:
        pieces = self._until(text, stop, raw_escapes, depth + 1)
        return "".join(piece for piece, _ in pieces)

    def _modified(self, name: str, value: str | None, modifier: str, word: str, *, null_is_unset: bool) -> str:
        is_set = value is not None and not (null_is_unset and not value)
        if modifier == "-":
            return (value or "") if is_set else word
        if modifier == "+":
            return word if is_set else ""
        if modifier == "?":
            if not is_set:
                why = "unset" if value is None else "empty"
                raise _Failure(f"{name}: {word or f'is not allowed to be {why}'}")
            return value or ""
        longest = word.startswith(modifier)
        return self._trimmed(value or "", word[longest:], longest, from_end=modifier == "%")

    def _trimmed(self, value: str, pattern: str, longest: bool, *, from_end: bool) -> str:
        """The value without the shortest or longest prefix (or suffix) that matches the pattern."""
        parts = _parts(pattern)
        if from_end:
            parts, value = parts[::-1], value[::-1]
        match = self._matcher(parts, len(value), longest).match(value)
        rest = value[match.end() :] if match else value
        return rest[::-1] if from_end else rest

    def _replaced(self, text: _Text, value: str, depth: int) -> str:
        everywhere = text.peek() == "/"
        if everywhere:
            text.next()
        pattern = self._inner(text, "/", True, depth)
        replacement = self._inner(text, "}", True, depth)
        matcher = self._matcher(_parts(pattern), len(value), True)
        out, at = [], 0
        while match := matcher.search(value, at):
            self._spend(len(replacement) + 1)
            out += [value[at : match.start()], replacement]
            at = match.end()
            if not everywhere or match.start() == match.end():
                break
        return "".join(out) + value[at:]

    def _matcher(self, parts: list[str], length: int, longest: bool) -> re.Pattern[str]:
        """A regular expression for the pattern. The text after a star matches at the first possible position. If the longest
        match is wanted, the text after the last star matches at the last possible position instead."""
        self._spend((length + 1) * (1 + len(parts)))
        pieces = [""]
        for part in parts:
            if part == "*":
                pieces.append("")
            else:
                pieces[-1] += "." if part == "?" else re.escape(part[-1])
        first, *rest = pieces
        inner = "".join(f"(?>.*?{piece})" for piece in (rest[:-1] if longest else rest) if piece)
        last = f".*{rest[-1]}" if rest and longest else ""
        return re.compile(first + inner + last, re.DOTALL)


def _parts(pattern: str) -> list[str]:
    """The parts of a pattern: "*", "?", or a character, with a backslash in front if it was escaped."""
    return re.findall(r"\\.|.", pattern, re.DOTALL)


def _escaped(text: str) -> str:
    return text[:500].replace("\\", "\\\\").replace('"', '\\"')
