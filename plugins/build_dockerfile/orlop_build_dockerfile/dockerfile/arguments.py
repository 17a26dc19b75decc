"""The arguments of an instruction. Depending on the instruction, they are JSON, words, one string, or names with values."""

from __future__ import annotations

import json
import re

import msgspec

from .goformat import quote

__all__ = ["Arguments", "Pair", "parse_arguments", "split_instruction"]

_SPACES = re.compile(r"[\t\v\f\r ]+")
_GO_SPACE = " \t\n\v\f\r\x85\xa0"
_GO_SPACES = re.compile(r"[ \t\n\v\f\r\x85\xa0]*")
_FIRST_WORD = re.compile(r"(\S*)\s*(.*)", re.DOTALL)
_MAYBE_JSON = {"cmd", "entrypoint", "run", "shell"}
_MAYBE_JSON_OR_WORDS = {"add", "copy", "volume"}
_WORDS = {"expose", "from"}
_STRING = {"maintainer", "stopsignal", "user", "workdir"}


class Pair(msgspec.Struct, frozen=True):
    """`legacy` marks the form `ENV name value`."""

    name: str
    value: str
    legacy: bool = False


class Arguments(msgspec.Struct, frozen=True):
    """`json`: `words` are from a JSON array. `pairs` is set for ENV and LABEL. `child` is set for ONBUILD: the name of the
    instruction in it, in lower case."""

    words: tuple[str, ...] = ()
    json: bool = False
    pairs: tuple[Pair, ...] = ()
    child: str = ""


def parse_arguments(name: str, rest: str, escape: str) -> Arguments:
    """Parse the arguments of the instruction `name` (in lower case). Raises `ValueError` with BuildKit's message."""
    if name in _MAYBE_JSON:
        return _json(rest) or Arguments((rest,) if rest else ())
    if name in _MAYBE_JSON_OR_WORDS:
        return _json(rest) or Arguments(_split(rest))
    if name in _WORDS:
        return Arguments(_split(rest))
    if name in _STRING:
        return Arguments((rest,) if rest else ())
    if name in ("env", "label"):
        return Arguments(pairs=_pairs(name.upper(), rest, escape))
    if name == "arg":
        return Arguments(tuple(shell_words(rest, escape)))
    if name == "healthcheck":
        return _health(rest)
    if name == "onbuild":
        return _child(rest, escape)
    return Arguments()


def _split(rest: str) -> tuple[str, ...]:
    return tuple(_SPACES.split(rest)) if rest else ()


def _json(rest: str) -> Arguments | None:
    """The arguments in a JSON array; None if the text is not a JSON array."""
    if not rest.lstrip(_GO_SPACE).startswith("["):
        return None
    try:
        values = json.loads(rest, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, list):
        return None
    if not all(isinstance(value, str) for value in values):
        raise ValueError("when using JSON array syntax, arrays must be comprised of strings only")
    return Arguments(tuple(values), json=True)


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _health(rest: str) -> Arguments:
    match = _FIRST_WORD.match(rest)
    if match is None or not match[1]:
        return Arguments()
    command = _json(match[2]) or Arguments((match[2],) if match[2] else ())
    return Arguments((match[1], *command.words), json=command.json)


def _child(rest: str, escape: str) -> Arguments:
    if not rest:
        return Arguments()
    name, _, rest = split_instruction(rest)
    inner = parse_arguments(name.lower(), rest, escape)
    return Arguments((name, *inner.words), json=inner.json, child=name.lower())


def _pairs(instruction: str, rest: str, escape: str) -> tuple[Pair, ...]:
    words = shell_words(rest, escape)
    if not words:
        return ()
    if "=" not in words[0]:
        parts = _SPACES.split(rest, maxsplit=1)
        if len(parts) < 2:
            raise ValueError(f"{instruction} must have two arguments")
        return (Pair(parts[0], parts[1], legacy=True),)
    pairs = []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"Syntax error - can't find = in {quote(word)}. Must be of the form: name=value")
        pairs.append(Pair(name, value))
    return tuple(pairs)


def shell_words(text: str, escape: str) -> list[str]:
    """Split the text at spaces that are neither quoted nor escaped. Quotes and escape characters stay, because the expansion
    removes them."""
    words: list[str] = []
    special = re.compile(f"[^\\s'\"{re.escape(escape)}]+")
    word: list[str] = []
    quoting = ""
    at = 0
    while at < len(text):
        char = text[at]
        if char == escape and quoting != "'":
            if at + 1 < len(text):
                word.append(text[at : at + 2])
            quoting = quoting if at + 1 < len(text) else ""
            at += 2
            continue
        at += 1
        if quoting:
            if char == quoting:
                quoting = ""
            word.append(char)
        elif char.isspace():
            if word:
                words.append("".join(word))
            word = []
        elif char in "'\"":
            quoting = char
            word.append(char)
        elif match := special.match(text, at - 1):
            word.append(match[0])
            at = match.end()
        else:
            word.append(char)
    if word:
        words.append("".join(word))
    return words


def split_instruction(line: str) -> tuple[str, tuple[str, ...], str]:
    """The name of the instruction, its flags, and the rest."""
    parts = _SPACES.split(line.strip(_GO_SPACE), maxsplit=1)
    if len(parts) == 1:
        return parts[0], (), ""
    flags: list[str] = []
    text = parts[1].strip(_GO_SPACE)
    at = 0
    while text.startswith("--", at):
        word, at = _flag(text, at)
        if word == "--":
            break
        flags.append(word)
        match = _GO_SPACES.match(text, at)
        assert match is not None
        at = match.end()
    return parts[0], tuple(flags), text[at:].strip(_GO_SPACE)


def _flag(text: str, at: int) -> tuple[str, int]:
    """The flag at a position, without its quotes and escape characters, and the position of its end. In flags, the escape
    character is always a backslash, also with another escape directive."""
    out: list[str] = []
    quote = ""
    while at < len(text):
        char = text[at]
        if char == quote:
            quote = ""
        elif not quote and char in "'\"":
            quote = char
        elif not quote and char in _GO_SPACE:
            break
        elif char == "\\":
            at += 1
            out.append(text[at : at + 1])
        else:
            out.append(char)
        at += 1
    return "".join(out), at
