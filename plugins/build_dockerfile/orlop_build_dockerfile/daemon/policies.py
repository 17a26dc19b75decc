"""The rules of garbage collection, from daemon.json. The default rules are the same as in moby's builder."""

from __future__ import annotations

import os
import re

from orlop_build_dockerfile.contracts import Policy
from orlop_build_dockerfile.keys import Collection, History, Rule
from orlop_sdk.sizes import parse_size

__all__ = ["PolicyError", "history_limits", "policies"]

_TEMPORARY = 512 << 20
_TWO_DAYS, _TWO_MONTHS = 48 * 3600, 60 * 24 * 3600
_SHARE = 10  # a policy may keep a tenth of the disk
_UNUSED = ("unused-for", "until")
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_DURATION = re.compile(r"(?:\d+(?:\.\d*)?(?:h|ms|us|ns|m|s))+")
_PART = re.compile(r"(\d+(?:\.\d*)?)(h|ms|us|ns|m|s)")


class PolicyError(ValueError):
    """The configuration is invalid."""


def policies(gc: Collection, data_root: str) -> tuple[Policy, ...]:
    """The rules in order. Raises `PolicyError`."""
    reserved = _size("defaultReservedSpace", gc.default_reserved_space or gc.default_keep_storage)
    maximum = _size("defaultMaxUsedSpace", gc.default_max_used_space)
    free = _size("defaultMinFreeSpace", gc.default_min_free_space)
    if gc.policy is not None:
        return tuple(_policy(rule, reserved, maximum, free) for rule in gc.policy)
    reserved = reserved or (0 if maximum or free else _disk(data_root) // _SHARE)
    easily_made = ("type==source.local", "type==exec.cachemount", "type==source.git.checkout")
    return (
        Policy(easily_made, keep_duration=_TWO_DAYS, maximum=_TEMPORARY),
        Policy(keep_duration=_TWO_MONTHS, reserved=reserved, maximum=maximum, free=free),
        Policy(reserved=reserved, maximum=maximum, free=free),
        Policy(everything=True, reserved=reserved, maximum=maximum, free=free),
    )


def _policy(rule: Rule, reserved: int, maximum: int, free: int) -> Policy:
    filters, seconds = [], 0
    for entry in rule.filter:
        name, sign, value = entry.partition("=")
        if name in _UNUSED and sign and not value.startswith("="):
            seconds = duration(value)
        else:
            filters.append(entry)
    return Policy(
        tuple(filters),
        everything=rule.all,
        keep_duration=seconds,
        reserved=_size("reservedSpace", rule.reserved_space or rule.keep_storage) or reserved,
        maximum=_size("maxUsedSpace", rule.max_used_space) or maximum,
        free=_size("minFreeSpace", rule.min_free_space) or free,
    )


def _size(name: str, text: str) -> int:
    if not text:
        return 0
    try:
        return parse_size(text)
    except ValueError as error:
        raise PolicyError(f"invalid {name} in builder.gc: {error}") from None


def history_limits(history: History) -> tuple[float, int]:
    """The age in seconds and the number of records. Raises `PolicyError`."""
    if history.max_entries < 0:
        raise PolicyError(f"invalid number in builder.history: maxEntries is {history.max_entries}")
    return duration(history.max_age, "builder.history"), history.max_entries


def duration(text: str, key: str = "builder.gc") -> int:
    """A duration in Go's form ("48h", "1h30m") in seconds."""
    if not _DURATION.fullmatch(text):
        raise PolicyError(f'invalid duration in {key}: "{text}" (48h, for example)')
    return int(sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text)))


def _disk(data_root: str) -> int:
    """The size of the disk with the data root. The data root need not exist yet."""
    while not os.path.exists(data_root):
        data_root = os.path.dirname(data_root)
    found = os.statvfs(data_root)
    return found.f_blocks * found.f_frsize
