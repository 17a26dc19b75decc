"""Filters of `du` and `prune`, in containerd's syntax: "type==regular,inuse", "id~=^ab", "description!=x".

A list of filters matches a record if one of its filters matches. A filter is a list of conditions, all of which must match.
Unknown fields are treated as not set. Messages are the same as containerd's (pkg/filters). All functions are pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from orlop_build_dockerfile.contracts import BuildFailed

__all__ = ["compile_filters"]

_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_OPERATOR = re.compile(r"[=~!]+")
_OPERATORS = ("==", "~=", "!=")

Fields = Mapping[str, str | None]
Predicate = Callable[[Fields], bool]


class _ParseError(Exception):
    def __init__(self, text: str, at: int, message: str) -> None:
        marked = f"{text[:at]} >|{text[at]}|< {text[at + 1 :]}" if at < len(text) else text
        super().__init__(f"[{marked}]: {message}")


def compile_filters(filters: Sequence[str], use: str = "prune") -> Predicate:
    """A predicate that says whether the fields of a record match. A field that is not set is None. Raises `BuildFailed` for
    an invalid filter; the message contains `use`."""
    try:
        alternatives = [_filter(text) for text in filters if text.strip()]
    except _ParseError as error:
        shown = " ".join(filters)[:1000]
        message = f"failed to parse {use} filters [{shown}]: filters: parse error: {str(error)[:1000]}: invalid argument"
        raise BuildFailed(message) from None
    if not alternatives:
        return lambda fields: True
    return lambda fields: any(all(condition(fields) for condition in each) for each in alternatives)


def _filter(text: str) -> list[Predicate]:
    conditions, at = [], 0
    while at < len(text):
        match = _FIELD.match(text, at)
        if not match:
            raise _ParseError(text, at, "expected field or quoted")
        at, name = match.end(), "parents" if match[0] == "parent" else match[0]
        operator, value = "", ""
        if found := _OPERATOR.match(text, at):
            operator = found[0]
            if operator not in _OPERATORS:
                raise _ParseError(text, at, f'unsupported operator "{operator}"')
            value, at = _value(text, found.end())
        conditions.append(_condition(name, operator, value, text))
        if at < len(text):
            if text[at] != ",":
                raise _ParseError(text, at, "unexpected input")
            if at + 1 == len(text):
                raise _ParseError(text, at + 1, "expected field or quoted")
            at += 1
    return conditions


def _value(text: str, at: int) -> tuple[str, int]:
    if at < len(text) and text[at] in "\"'|/":
        quote, out = text[at], []
        at += 1
        while at < len(text) and text[at] != quote:
            at += text[at] == "\\" and at + 1 < len(text) and text[at + 1] in (quote, "\\")
            out.append(text[at])
            at += 1
        if at == len(text):
            raise _ParseError(text, at, "unterminated literal")
        return "".join(out), at + 1
    end = text.find(",", at)
    end = len(text) if end < 0 else end
    return text[at:end], end


def _condition(name: str, operator: str, value: str, text: str) -> Predicate:
    if not operator:
        return lambda fields: fields.get(name) is not None
    if operator == "~=":
        try:
            pattern = re.compile(value)
        except re.error:
            raise _ParseError(text, 0, "invalid regular expression") from None
        return lambda fields: pattern.search(fields.get(name) or "") is not None
    if operator == "==":
        return lambda fields: _equal(name, fields.get(name), value)
    return lambda fields: not _equal(name, fields.get(name), value)


def _equal(name: str, found: str | None, value: str) -> bool:
    return value in found.split(";") if name == "parents" and found else (found or "") == value
