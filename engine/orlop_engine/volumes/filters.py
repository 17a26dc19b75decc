"""Filters of volume list and prune. This module does no I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from orlop_engine.images.listing import boolean, check, labels_match
from orlop_engine.patterns import compiled
from orlop_sdk import InvalidParameter
from orlop_sdk.numbers import parse_bool

from .record import ANONYMOUS, VolumeRecord

__all__ = ["listed", "prunable"]

Filters = Mapping[str, Sequence[str]]

_LIST_KEYS = frozenset({"dangling", "driver", "label", "name"})
_PRUNE_KEYS = frozenset({"all", "label", "label!"})


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
        try:
            everything, *_ = map(parse_bool, values)
        except ValueError as error:
            raise InvalidParameter(f"invalid filter 'all': {error}") from None

    def accept(record: VolumeRecord) -> bool:
        if not record.disposable or not (everything or ANONYMOUS in record.labels):
            return False
        return labels_match({key: filters[key] for key in ("label", "label!") if key in filters}, record.labels)

    return accept
