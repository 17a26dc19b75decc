"""Filters of network list and prune. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from orlop_kernel.spi import InvalidParameter

from .records import NetworkRecord

__all__ = ["listed", "prunable"]

Filters = Mapping[str, Sequence[str]]

_LIST_KEYS = frozenset({"dangling", "driver", "id", "label", "name", "scope", "type"})
_PRUNE_KEYS = frozenset({"until", "label", "label!"})


def _check_keys(filters: Filters, known: frozenset[str]) -> None:
    for key in filters:
        if key not in known:
            raise InvalidParameter(f"invalid filter '{key}'")


def _boolean(filters: Filters, key: str) -> bool | None:
    values = filters.get(key, ())
    if not values:
        return None
    words = {value in ("1", "true") for value in values if value in ("1", "true", "0", "false")}
    if len(words) != 1 or any(value not in ("1", "true", "0", "false") for value in values):
        raise InvalidParameter(f"invalid filter '{key}={list(values)}'".replace("'[", "[").replace("]'", "]"))
    return words.pop()


def _has_label(labels: Mapping[str, str], wanted: str) -> bool:
    key, sign, value = wanted.partition("=")
    return key in labels and (not sign or labels[key] == value)


def _search(pattern: str, text: str) -> bool:
    try:
        return re.search(pattern, text) is not None
    except re.error:
        return pattern in text


def listed(filters: Filters) -> Callable[[NetworkRecord, bool], bool]:
    """(row, in use) -> whether the list has it. Raises `InvalidParameter` for filters that cannot be."""
    _check_keys(filters, _LIST_KEYS)
    dangling = _boolean(filters, "dangling")
    for kind in filters.get("type", ()):
        if kind not in ("custom", "builtin"):
            raise InvalidParameter(f"invalid filter: 'type'='{kind}'")
    tests: list[Callable[[NetworkRecord], bool]] = []
    one_of: dict[str, Callable[[NetworkRecord, str], bool]] = {
        "driver": lambda record, value: record.driver == value,
        "id": lambda record, value: record.id.startswith(value) or _search(value, record.id),
        "name": lambda record, value: _search(value, record.name),
        "scope": lambda record, value: value == "local",
        "type": lambda record, value: record.predefined == (value == "builtin"),
    }
    for key, test in one_of.items():
        values = filters.get(key)
        if values:
            tests.append(lambda record, test=test, values=values: any(test(record, value) for value in values))  # type: ignore[misc]

    def accept(record: NetworkRecord, in_use: bool) -> bool:
        if dangling is not None and (not record.predefined and not in_use) != dangling:
            return False
        if not all(_has_label(record.labels, label) for label in filters.get("label", ())):
            return False
        return all(test(record) for test in tests)

    return accept


def prunable(filters: Filters, until_ns: int | None) -> Callable[[NetworkRecord], bool]:
    """`until_ns` is what the filter `until` means, decided by the caller, who has a clock."""
    _check_keys(filters, _PRUNE_KEYS)

    def accept(record: NetworkRecord) -> bool:
        if until_ns is not None and record.created_ns > until_ns:
            return False
        if not all(_has_label(record.labels, label) for label in filters.get("label", ())):
            return False
        return not any(_has_label(record.labels, label) for label in filters.get("label!", ()))

    return accept
