"""The errors that cross the driver seam. Each has a caller who acts on it; `api` maps each to one status code.

Messages say "cannot VERB OBJECT: cause", or Docker's own words where clients match on them.
"""

from __future__ import annotations

__all__ = [
    "Conflict",
    "DeadlineExceeded",
    "DriverError",
    "Forbidden",
    "InvalidParameter",
    "NotFound",
    "NotImplementedHere",
    "NotModified",
    "OrlopError",
    "Unauthorized",
    "Unavailable",
]


class OrlopError(Exception):
    """Base of all errors whose text may be shown to a user."""


class InvalidParameter(OrlopError):
    """The request cannot be right, whatever the state of the machine (400)."""


class Unauthorized(OrlopError):
    """A registry or a policy wants credentials that it was not given (401)."""


class Forbidden(OrlopError):
    """The request is understood and refused (403)."""


class NotFound(OrlopError):
    """The named object does not exist (404)."""


class Conflict(OrlopError):
    """The object is in a state that does not allow the operation (409)."""


class NotModified(OrlopError):
    """The object is already in the state that was asked for (304, no body)."""


class NotImplementedHere(OrlopError):
    """A driver in use lacks the capability, by design (501)."""


class Unavailable(OrlopError):
    """Something needed does not answer at the moment; asking again later may work (503)."""


class DriverError(OrlopError):
    """A driver or a program it uses failed (500)."""


class DeadlineExceeded(DriverError):
    """A driver or a program did not answer in its time (500). Nothing else is affected."""
