"""Filters of `du` and `prune`, in containerd's syntax: "type==regular,inuse", "id~=^ab", "description!=x".

A list of filters matches what one of them matches; a filter is a list of conditions that must all hold. Pure functions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from orlop_build_dockerfile.contracts import BuildFailed

__all__ = ["compile_filters"]

_FIELD = re.compile(r"[a-zA-Z]+")
_OPERATORS = ("==", "~=", "!=")
_KNOWN = frozenset({"id", "parents", "parent", "description", "inuse", "mutable", "immutable", "type", "shared", "private"})

Fields = Mapping[str, str | None]
Predicate = Callable[[Fields], bool]


def compile_filters(filters: Sequence[str]) -> Predicate:
    """Whether the fields of a record match; None is a field that is not set. Raises `BuildFailed` for a bad filter."""
    alternatives = [_filter(text) for text in filters if text.strip()]
    if not alternatives:
        return lambda fields: True
    return lambda fields: any(all(condition(fields) for condition in each) for each in alternatives)


def _invalid(text: str) -> BuildFailed:
    return BuildFailed(f"failed to parse filters: {text[:200]!r} is invalid", code=3)


def _filter(text: str) -> list[Predicate]:
    conditions, at = [], 0
    while at < len(text):
        match = _FIELD.match(text, at)
        if not match or match[0] not in _KNOWN:
            raise _invalid(text)
        at, name = match.end(), "parents" if match[0] == "parent" else match[0]
        operator = next((each for each in _OPERATORS if text.startswith(each, at)), "")
        value = ""
        if operator:
            value, at = _value(text, at + 2)
        conditions.append(_condition(name, operator, value, text))
        if at < len(text):
            if text[at] != "," or at + 1 == len(text):
                raise _invalid(text)
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
            raise _invalid(text)
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
            raise _invalid(text) from None
        return lambda fields: pattern.search(fields.get(name) or "") is not None
    if operator == "==":
        return lambda fields: _equal(name, fields.get(name), value)
    return lambda fields: not _equal(name, fields.get(name), value)


def _equal(name: str, found: str | None, value: str) -> bool:
    return value in found.split(";") if name == "parents" and found else (found or "") == value
