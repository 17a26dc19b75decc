"""Filters of network list and prune. This module does no I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from orlop_engine.images.listing import boolean, check, labels_match, moment
from orlop_engine.patterns import compiled
from orlop_sdk import InvalidParameter

from .records import NetworkRecord

__all__ = ["listed", "prunable"]

Filters = Mapping[str, Sequence[str]]

_LIST_KEYS = frozenset({"dangling", "driver", "id", "label", "name", "scope", "type"})
_PRUNE_KEYS = frozenset({"until", "label", "label!"})


def _search(pattern: str, text: str) -> bool:
    found = compiled(pattern)
    return found.search(text) is not None if found else pattern in text


_TESTS: dict[str, Callable[[NetworkRecord, str], bool]] = {
    "driver": lambda record, value: record.driver == value,
    "id": lambda record, value: record.id.startswith(value) or _search(value, record.id),
    "name": lambda record, value: _search(value, record.name),
    "scope": lambda record, value: value == "local",
    "type": lambda record, value: record.predefined == (value == "builtin"),
}


def listed(filters: Filters) -> Callable[[NetworkRecord, bool], bool]:
    """A predicate (row, in use) -> whether the list includes the network. Raises `InvalidParameter` for invalid filters."""
    check(filters, _LIST_KEYS)
    dangling = boolean(filters, "dangling", False)
    for kind in filters.get("type", ()):
        if kind not in ("custom", "builtin"):
            raise InvalidParameter(f"invalid filter: 'type'='{kind}'")

    def accept(record: NetworkRecord, in_use: bool) -> bool:
        if filters.get("dangling") and (not record.predefined and not in_use) != dangling:
            return False
        if not labels_match({"label": filters.get("label", ())}, record.labels):
            return False
        return all(any(test(record, value) for value in filters[key]) for key, test in _TESTS.items() if filters.get(key))

    return accept


def prunable(filters: Filters, now: float) -> Callable[[NetworkRecord], bool]:
    """A predicate for the networks that a prune removes if they are unused. `now` is Unix time in seconds; a relative
    `until` is subtracted from it."""
    check(filters, _PRUNE_KEYS)
    until = filters.get("until", ())
    if len(until) > 1:
        raise InvalidParameter("more than one until filter specified")
    latest = moment(until[0], now) if until else None

    def accept(record: NetworkRecord) -> bool:
        return (latest is None or record.created_ns / 1e9 <= latest) and labels_match(filters, record.labels)

    return accept
