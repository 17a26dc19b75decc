"""Heredocs: `<<NAME`, `<<-NAME` and `<<"NAME"` in RUN, COPY and ADD."""

from __future__ import annotations

import re

import msgspec

from .limits import Budget
from .words import Lexer, WordError

__all__ = ["Heredoc", "heredoc_word", "heredocs_of_line", "without_tabs"]

_WORD = re.compile(r"(\d*)<<(-?)([^<]+)")
_TABS = re.compile(r"^\t+", re.MULTILINE)


class Heredoc(msgspec.Struct, frozen=True):
    """A heredoc. `expand` is false if its name is quoted. `chomp` is set for `<<-`, which removes the tabs before each
    line."""

    name: str
    expand: bool
    chomp: bool
    descriptor: int
    content: str = ""


def heredoc_word(word: str, budget: Budget) -> Heredoc | None:
    """The heredoc that a word of an instruction announces. Raises `WordError` if its quotes have no end."""
    if "<<" not in word or (match := _WORD.fullmatch(word)) is None:
        return None
    lexer = Lexer("\\", budget, skip_unset=True)
    bare = lexer.expand(match[3], {}).words
    if len(bare) != 1:
        return None
    raw = msgspec.structs.replace(lexer, raw_quotes=True).expand(match[3], {}).words
    if len(raw) != 1:
        raise WordError(f"internal lexing of heredoc produced inconsistent results: {match[3]}")
    quotes = (raw[0].count("'") + raw[0].count('"')) - (bare[0].count("'") + bare[0].count('"'))
    return Heredoc(bare[0], quotes == 0, bool(match[2]), int(match[1][:9] or "0"))


def heredocs_of_line(line: str, budget: Budget) -> list[Heredoc]:
    """The heredocs that an instruction's line announces. Their contents follow, in this order."""
    if "<<" not in line:
        return []
    try:
        words = Lexer("\\", budget, raw_quotes=True, raw_escapes=True, skip_unset=True).expand(line, {}).words
    except WordError:
        return []  # a line that a shell cannot split into words has no heredoc
    return [found for word in words if (found := heredoc_word(word, budget))]


def without_tabs(content: str) -> str:
    return _TABS.sub("", content)
