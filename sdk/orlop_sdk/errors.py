"""The errors that drivers raise and the engine handles. The Docker API maps each class to the HTTP status in the class's
docstring.

Messages have the form "cannot VERB OBJECT: cause". An error that clients recognize by Docker's message has exactly Docker's
message.
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
    """Base of all errors whose message may be shown to a user."""


class InvalidParameter(OrlopError):
    """The request is invalid in every state of the machine (400)."""


class Unauthorized(OrlopError):
    """A registry or an access policy requires credentials that the request lacks (401)."""


class Forbidden(OrlopError):
    """The request is valid but not allowed (403)."""


class NotFound(OrlopError):
    """The named object does not exist (404)."""


class Conflict(OrlopError):
    """The object is in a state that does not allow the operation (409)."""


class NotModified(OrlopError):
    """The object is already in the requested state (304, no body)."""


class NotImplementedHere(OrlopError):
    """The driver deliberately does not support the operation (501)."""


class Unavailable(OrlopError):
    """A service or resource is temporarily unavailable; a retry may succeed (503)."""


class DriverError(OrlopError):
    """A driver, or a program that the driver uses, failed (500)."""


class DeadlineExceeded(DriverError):
    """A driver or a program did not answer before its deadline (500). Other operations are not affected."""
