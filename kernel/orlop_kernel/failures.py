"""Converts any exception of an operation to an `OrlopError`, the type that callers handle.

Other exceptions (a full disk, a process that has ended, a driver's bug) must make only the operation fail, never the daemon.
The caller of the operation converts them, so that no code of the operation has to catch them.
"""

from __future__ import annotations

import logging

from orlop_kernel import descriptors
from orlop_sdk import DriverError, OrlopError, Unavailable

__all__ = ["as_orlop_error", "forget_frames", "leaves"]

log = logging.getLogger("orlop.daemon")


def leaves(error: BaseException) -> list[BaseException]:
    """The exceptions of a group and of its nested groups; `[error]` if `error` is not a group."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [error]


def as_orlop_error(error: BaseException, what: str) -> OrlopError:
    """Returns `error` if it is an OrlopError, or the first OrlopError in a group. Otherwise returns an error with the
    message "`what`: cause". `what` has the form "cannot VERB OBJECT"."""
    found = leaves(error)
    for leaf in found:
        if isinstance(leaf, OrlopError):
            return leaf
    first = found[0]
    if descriptors.is_exhaustion(error):
        return Unavailable(f"{what}: {descriptors.advice()}")
    if isinstance(first, OSError):
        name = f"{first.filename}: " if first.filename else ""
        return DriverError(f"{what}: {name}{first.strerror or first}")
    log.error("%s", what, exc_info=error)  # this is a bug: the log gets the traceback, which clients must not see
    return DriverError(f"{what}: {type(first).__name__}: {first}")


def forget_frames(error: BaseException) -> None:
    """Drop the tracebacks of a handled error and of its causes. A traceback refers to frames, and a frame that stores the
    exception completes a reference cycle. Such a cycle keeps the body of a failed request in memory until a full garbage
    collection."""
    waiting, seen = [error], set[int]()
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        each.__traceback__ = None
        waiting += [cause for cause in (each.__cause__, each.__context__) if cause is not None]
        if isinstance(each, BaseExceptionGroup):
            waiting += each.exceptions
