"""Filters of volume list and prune. This module does no I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from orlop_engine.images.listing import boolean, check, labels_match
from orlop_engine.patterns import compiled
from orlop_sdk import InvalidParameter

from .record import ANONYMOUS, VolumeRecord

__all__ = ["listed", "prunable"]

Filters = Mapping[str, Sequence[str]]

_LIST_KEYS = frozenset({"dangling", "driver", "label", "name"})
_PRUNE_KEYS = frozenset({"all", "label", "label!"})
_TRUE, _FALSE = frozenset({"1", "t", "T", "TRUE", "true", "True"}), frozenset({"0", "f", "F", "FALSE", "false", "False"})


def _name_matches(pattern: str, name: str) -> bool:
    found = compiled(pattern)
    return found.search(name) is not None if found else pattern == name


def listed(filters: Filters) -> Callable[[VolumeRecord, bool], bool]:
    """A predicate (row, in use) -> whether the list includes the volume. Raises `InvalidParameter` for invalid filters."""
    check(filters, _LIST_KEYS)
    dangling = boolean(filters, "dangling", False)

    def accept(record: VolumeRecord, in_use: bool) -> bool:
        if filters.get("dangling") and in_use == dangling:
            return False
        if filters.get("driver") and record.driver not in filters["driver"]:
            return False
        if not labels_match({"label": filters.get("label", ())}, record.labels):
            return False
        names = filters.get("name")
        return not names or any(_name_matches(name, record.name) for name in names)

    return accept


def prunable(filters: Filters, *, named: bool = False) -> Callable[[VolumeRecord], bool]:
    """A predicate for the unused volumes that a prune removes: anonymous volumes; with `named` or the filter `all`, also
    named volumes."""
    check(filters, _PRUNE_KEYS)
    everything = named
    values = filters.get("all", ())
    if values and not named:
        for value in values:
            if value not in _TRUE | _FALSE:
                raise InvalidParameter(f"invalid filter 'all': strconv.ParseBool: parsing \"{value}\": invalid syntax")
        everything = values[0] in _TRUE

    def accept(record: VolumeRecord) -> bool:
        if not record.disposable or not (everything or ANONYMOUS in record.labels):
            return False
        return labels_match({key: filters[key] for key in ("label", "label!") if key in filters}, record.labels)

    return accept
