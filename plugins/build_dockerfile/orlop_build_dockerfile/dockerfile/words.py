"""Words of Dockerfile instructions: quotes, escapes and variables (buildkit frontend/dockerfile/shell/lex.go).

All work is counted by a `Budget`. Patterns match in linear time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from . import patterns
from .goformat import quote
from .limits import Budget

__all__ = ["Expanded", "Lexer", "WordError"]

_DEPTH = 50
_VARIABLE = 100  # each variable counts as 100 characters more than its value, because it becomes a list item
_NAME = re.compile(r"[0-9]+|[@*#?\-$!]|[^\W\d]\w*")
_MODIFIERS = "+-?#%"
_SPACE = re.compile(r"\s+")


class WordError(ValueError):
    """A word cannot be expanded. The message is the same as BuildKit's."""


class Expanded(msgspec.Struct, frozen=True):
    """`words` is the text split at spaces that are neither quoted nor escaped. `matched` are the names of used variables
    that are set, `unmatched` those that are not set, both in the order of use."""

    text: str
    words: list[str]
    matched: dict[str, None]
    unmatched: dict[str, None]


class Lexer(msgspec.Struct, frozen=True):
    """The rules by which a text is read. With `raw_quotes` and `raw_escapes`, quotes and escape characters stay in the
    result. With `skip_quotes`, quotes are ordinary characters. With `skip_unset`, variables that are not set stay
    unexpanded."""

    escape: str
    budget: Budget
    raw_quotes: bool = False
    raw_escapes: bool = False
    skip_quotes: bool = False
    skip_unset: bool = False

    def expand(self, text: str, env: Mapping[str, str]) -> Expanded:
        self.budget.spend(len(text))
        if self.escape not in text and "$" not in text and "'" not in text and '"' not in text:
            return Expanded(text, text.split(), {}, {})
        reader = _Reader(self, text, env)
        try:
            pieces = reader.until("", self.raw_escapes, 0)
        except WordError as error:
            raise WordError(f"failed to process {quote(text[:1000])}: {error}") from None
        return Expanded("".join(piece for piece, _ in pieces), _split(pieces), reader.matched, reader.unmatched)

    def word(self, text: str, env: Mapping[str, str]) -> str:
        return self.expand(text, env).text


def _split(pieces: list[tuple[str, bool]]) -> list[str]:
    words: list[list[str]] = [[]]
    for piece, raw in pieces:
        parts = [piece] if raw else _SPACE.split(piece)
        words[-1].append(parts[0])
        words += [[part] for part in parts[1:]]
    joined = ["".join(parts) for parts in words]
    return [word for word in joined if word]


class _Reader:
    def __init__(self, lexer: Lexer, text: str, env: Mapping[str, str]) -> None:
        self._lexer, self._text, self._env = lexer, text, env
        self._at = 0
        self.matched: dict[str, None] = {}
        self.unmatched: dict[str, None] = {}
        special = re.escape(lexer.escape) + "$" + ("" if lexer.skip_quotes else "'\"")
        self._plain = re.compile(f"[^{special}/}}]+")  # a part of a substitution may end with "/" or "}"

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _next(self) -> str:
        self._at += 1
        return self._text[self._at - 1 : self._at]

    def until(self, stop: str, raw_escapes: bool, depth: int) -> list[tuple[str, bool]]:
        """The pieces up to the character `stop`, or to the end. The flag of a piece says whether it is literal or may be
        split."""
        if depth > _DEPTH:
            raise WordError("substitutions are nested too deeply")
        pieces: list[tuple[str, bool]] = []
        while char := self._peek():
            if char == stop:
                self._next()
                return pieces
            if char == "$":
                pieces.append((self._variable(depth), False))
            elif char == "'" and not self._lexer.skip_quotes:
                pieces.append((self._single_quoted(), True))
            elif char == '"' and not self._lexer.skip_quotes:
                pieces.append((self._double_quoted(raw_escapes, depth), True))
            elif char == self._lexer.escape:
                self._next()
                escaped = self._next()
                pieces.append(((char if raw_escapes else "") + escaped, True))
            else:
                pieces.append((self._plain_text(), False))
        if stop:
            raise WordError(f"unexpected end of statement while looking for matching {stop}")
        return pieces

    def _plain_text(self) -> str:
        match = self._plain.match(self._text, self._at)
        if match is None:
            return self._next()
        self._at = match.end()
        return match[0]

    def _single_quoted(self) -> str:
        end = self._text.find("'", self._at + 1)
        if end < 0:
            raise WordError("unexpected end of statement while looking for matching single-quote")
        start, self._at = self._at, end + 1
        return self._text[start : end + 1] if self._lexer.raw_quotes else self._text[start + 1 : end]

    def _double_quoted(self, raw_escapes: bool, depth: int) -> str:
        quotes = '"' if self._lexer.raw_quotes else ""
        out = [quotes]
        self._next()
        while char := self._peek():
            if char == "$":
                out.append(self._variable(depth))
                continue
            self._next()
            if char == '"':
                return "".join(out) + quotes
            if char == self._lexer.escape:
                if raw_escapes:
                    out.append(char)
                if not self._peek():
                    continue
                if self._peek() in ('"', "$", char):
                    char = self._next()
            out.append(char)
        raise WordError("unexpected end of statement while looking for matching double-quote")

    def _variable(self, depth: int) -> str:
        self._next()
        if self._peek() == "{":
            self._next()
            return self._braced(depth)
        name = self._name()
        if not name:
            return "$"
        value = self._value(name)
        if value is None:
            return "$" + name if self._lexer.skip_unset else ""
        return value

    def _name(self) -> str:
        match = _NAME.match(self._text, self._at)
        if match is None:
            return ""
        self._at = match.end()
        return match[0]

    def _value(self, name: str) -> str | None:
        value = self._env.get(name)
        (self.unmatched if value is None else self.matched)[name] = None
        self._lexer.budget.spend(len(value or "") + _VARIABLE)
        return value

    def _braced(self, depth: int) -> str:
        if not self._peek():
            raise WordError("syntax error: missing '}'")
        if self._peek() in "{}:":
            raise WordError("syntax error: bad substitution")
        name = self._name()
        modifier = self._next()
        if modifier == "}":
            value = self._value(name)
            return f"${{{name}}}" if value is None and self._lexer.skip_unset else value or ""
        if modifier == "/":
            return self._replaced(name, depth)
        colon = ":" if modifier == ":" else ""
        if colon:
            modifier = self._next()
        if not modifier or modifier not in _MODIFIERS:
            if colon:  # after a colon, BuildKit reads the word before it checks the modifier
                self._inner("}", False, depth)
            raise WordError(f"unsupported modifier ({colon}{modifier or chr(0xFFFD)}) in substitution")
        word = self._inner("}", modifier in "#%", depth)
        value = self._value(name)
        if value is None and self._lexer.skip_unset:
            return f"${{{name}{colon}{modifier}{word}}}"
        return self._modified(name, value, modifier, word, null_is_unset=bool(colon))

    def _inner(self, stop: str, raw_escapes: bool, depth: int) -> str:
        try:
            return "".join(piece for piece, _ in self.until(stop, raw_escapes, depth + 1))
        except WordError:
            if self._at >= len(self._text):
                raise WordError(f"syntax error: missing '{stop}'" + (" in ${}" if stop == "/" else "")) from None
            raise

    def _modified(self, name: str, value: str | None, modifier: str, word: str, *, null_is_unset: bool) -> str:
        is_set = value is not None and not (null_is_unset and not value)
        if modifier == "-":
            return (value or "") if is_set else word
        if modifier == "+":
            return word if is_set else ""
        if modifier == "?":
            if not is_set:
                why = "unset" if value is None else "empty"
                raise WordError(f"{name}: {word or f'is not allowed to be {why}'}")
            return value or ""
        longest = word.startswith(modifier)
        pattern = self._pattern(word[longest:], len(value or ""))
        return pattern.trimmed(value or "", longest=longest, from_end=modifier == "%")

    def _replaced(self, name: str, depth: int) -> str:
        everywhere = self._peek() == "/"
        if everywhere:
            self._next()
        pattern = self._inner("/", True, depth)
        replacement = self._inner("}", True, depth)
        value = self._value(name)
        if value is None and self._lexer.skip_unset:
            return f"${{{name}/{pattern}/{replacement}}}"
        matcher = self._pattern(pattern, len(value or ""))
        return matcher.replaced(value or "", replacement, everywhere=everywhere, spend=self._lexer.budget.spend)

    def _pattern(self, text: str, length: int) -> patterns.Pattern:
        try:
            pattern = patterns.Pattern(text)
        except ValueError as error:
            raise WordError(f"invalid pattern ({text}) in substitution: {error}") from None
        self._lexer.budget.spend((length + 1) * (1 + pattern.size))
        return pattern
