"""Open files: how many this process has, whether an error means exhaustion, and advice for the administrator."""

from __future__ import annotations

import errno
import resource
import socket

__all__ = ["advice", "in_use", "is_exhaustion"]

_EXHAUSTION = frozenset({errno.EMFILE, errno.ENFILE})


def in_use() -> int:
    """A lower bound of the number of open files: the kernel gives a new descriptor the lowest free number."""
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.fileno()
    except OSError:
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def is_exhaustion(error: BaseException | None) -> bool:
    """Whether the error, or one of its causes, says that no descriptor is free."""
    seen: set[int] = set()
    pending = [error]
    while pending:
        error = pending.pop()
        if error is None or id(error) in seen:
            continue
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in _EXHAUSTION:
            return True
        if isinstance(error, BaseExceptionGroup):
            pending += error.exceptions
        pending += (error.__cause__, error.__context__)
    return False


def advice() -> str:
    """A text for the log and for clients, which says how an administrator can raise the limit."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return (
        f"too many open files: the daemon may have {limit}; end clients that follow logs, events or attached containers, "
        "or raise its limit (LimitNOFILE= of the service)"
    )
