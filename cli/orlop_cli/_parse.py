"""Parses correct command lines, which have only known flags and the right number of arguments. For all other command lines
(for example with --help or an unknown flag), the functions return None. Then click parses the words again, and prints the
help or the error message. A test compares the results with click's.
"""

from __future__ import annotations

import os

from orlop_cli.values.types import Parsed, boolean

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from orlop_cli._command import Definition, Flag

__all__ = ["arguments", "flags_and_words"]


def arguments(definition: Definition, words: Sequence[str]) -> dict[str, Any] | None:
    """The arguments of a command's function, except the session; None if click must parse the words."""
    found = flags_and_words(definition.flags, words, definition.interspersed)
    if found is None:
        return None
    values, rest = found
    if not (definition.least <= len(rest) and (definition.most is None or len(rest) <= definition.most)):
        return None
    return {**values, "args": tuple(rest)}


def flags_and_words(
    flags: Sequence[Flag], words: Sequence[str], interspersed: bool
) -> tuple[dict[str, Any], list[str]] | None:
    """The values of all flags, and the other words. With `interspersed`, flags may follow other words."""
    given: dict[str, Any] = {}
    rest = _read(flags, words, interspersed, given)
    if rest is None:
        return None
    values: dict[str, Any] = {}
    for flag in flags:
        if flag.name in given:
            values[flag.name] = tuple(given[flag.name]) if flag.repeated else given[flag.name]
            continue
        text = os.environ.get(flag.kwargs.get("envvar", ""), "")
        if text and (flag.repeated or flag.switch or "type" in flag.kwargs):
            return None
        values[flag.name] = text or (() if flag.repeated else flag.kwargs.get("default"))
    return values, rest


def _read(flags: Sequence[Flag], words: Sequence[str], interspersed: bool, given: dict[str, Any]) -> list[str] | None:
    """Read the flags into `given`. Returns the other words; None if a word needs a message from click."""
    known = {opt: flag for flag in flags for opt in flag.opts}
    twins = {flag.twin: flag for flag in flags if flag.twin}
    rest: list[str] = []
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if word == "--":
            return [*rest, *words[at:]]
        if not word.startswith("-") or word == "-":
            rest.append(word)
            if not interspersed:
                return [*rest, *words[at:]]
        elif word in twins and word not in known:
            given[twins[word].name] = False
        elif word.startswith("--"):
            name, equals, value = word.partition("=")
            flag = known.get(name)
            if flag is None or (not equals and not flag.switch and at == len(words)):
                return None
            if not equals and not flag.switch:
                value, equals = words[at], "="
                at += 1
            if not _take(flag, value if equals else None, given):
                return None
        else:
            taken = _letters(known, word, words[at] if at < len(words) else None, given)
            if taken is None:
                return None
            at += taken
    return rest


def _letters(known: dict[str, Flag], word: str, following: str | None, given: dict[str, Any]) -> int | None:
    """Read `-it`, `-m 512m`, `-m512m`, `-m=512m`, `-d=true`. Returns how many of the following words were used; None if
    click must parse the words."""
    for position in range(1, len(word)):
        flag, rest = known.get("-" + word[position]), word[position + 1 :]
        if flag is None:
            return None
        if flag.switch:
            if rest.startswith("="):
                return 0 if position == 1 and _take(flag, rest[1:], given) else None
            _take(flag, None, given)
        elif rest.startswith("=") and position > 1:
            return None  # pflag and click parse this differently
        elif rest:
            return 0 if _take(flag, rest.removeprefix("="), given) else None
        else:
            return 1 if following is not None and _take(flag, following, given) else None
    return 0


def _take(flag: Flag, value: str | None, given: dict[str, Any]) -> bool:
    """Store the value of a flag. `value` is None for a switch without a value. Returns False if the value is invalid, or if
    only click can parse its type."""
    kind = flag.kwargs.get("type")
    try:
        if flag.switch:
            given[flag.name] = True if value is None else boolean(value)
            return True
        if value is None or not (kind is None or isinstance(kind, Parsed)):
            return False
        converted = value if kind is None else kind.parse(value)
    except ValueError:
        return False
    if flag.repeated:
        given.setdefault(flag.name, []).append(converted)
    else:
        given[flag.name] = converted
    return True
