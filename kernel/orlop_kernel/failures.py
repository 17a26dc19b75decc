"""What may come out of an operation, made one kind: an `OrlopError`, on which callers act.

An exception of another kind is a full disk, a process that is gone, a driver's bug: one operation's failure, never the
daemon's. It is turned here, at the seams where operations begin, so that no code in between needs to know of it.
"""

from __future__ import annotations

import logging

from orlop_kernel import descriptors
from orlop_sdk import DriverError, OrlopError, Unavailable

__all__ = ["as_orlop_error"]

log = logging.getLogger(__name__)


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


def as_orlop_error(error: Exception, what: str) -> OrlopError:
    """`error` itself if it is one; of a nursery's group the first that is; else a `DriverError` that begins with `what`,
    "cannot VERB OBJECT"."""
    leaves = _leaves(error)
    for leaf in leaves:
        if isinstance(leaf, OrlopError):
            return leaf
    first = leaves[0]
    if descriptors.is_exhaustion(error):
        return Unavailable(f"{what}: {descriptors.advice()}")
    if isinstance(first, OSError):
        name = f"{first.filename}: " if first.filename else ""
        return DriverError(f"{what}: {name}{first.strerror or first}")
    log.error("%s", what, exc_info=error)  # a mistake of the program's: the log gets what no client should see
    return DriverError(f"{what}: {type(first).__name__}: {first}")
