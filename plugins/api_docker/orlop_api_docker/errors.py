"""The table that maps exceptions to status codes. The engine raises errors with a text, and does not depend on HTTP."""

from __future__ import annotations

import errno
import logging

import msgspec

from orlop_api_docker.responses import error_response
from orlop_engine.images.refusals import RegistryRefusal
from orlop_kernel import descriptors
from orlop_kernel.http.head import BadRequest
from orlop_kernel.http.messages import BodyError, Request, Response
from orlop_sdk import errors

from .decode import explain_validation

__all__ = ["STATUS", "answer_error"]

log = logging.getLogger("orlop.api")

STATUS: dict[type[BaseException], int] = {
    errors.InvalidParameter: 400,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.NotModified: 304,
    errors.NotImplementedHere: 501,
    errors.Unavailable: 503,
    errors.DriverError: 500,
    errors.OrlopError: 500,
}


def _leaf(error: BaseException) -> BaseException:
    """The exception of a group that determines the answer. This is the first exception with a text for users. If there is
    none, it is the first exception."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = [_leaf(inner) for inner in error.exceptions]
    return next((leaf for leaf in leaves if _status(leaf)), leaves[0])


def _status(error: BaseException) -> int:
    """The status of an error; 0 for internal errors."""
    if isinstance(error, BodyError | BadRequest | RegistryRefusal):
        return error.status
    if isinstance(error, msgspec.ValidationError):
        return 400
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 0)


def _shown(request: Request) -> str:
    """The target without its query, because the query may contain passwords (`fromSrc=https://USER:TOKEN@...`). The path is
    not decoded, because a decoded path can contain a newline and forge a line of the log."""
    return request.target.partition("?")[0]


def answer_error(request: Request, error: Exception) -> Response:
    """The error answer. Failures of the machine and bugs are also logged. The traceback of a bug is logged, but never sent
    to a client."""
    leaf = _leaf(error)
    status = _status(leaf)
    message = explain_validation(leaf) if isinstance(leaf, msgspec.ValidationError) else str(leaf)
    if isinstance(leaf, OSError) and leaf.errno == errno.ENOSPC:
        # A full disk is not a bug, and is the only failure of the machine that users can fix themselves.
        status, message = 500, "no space left on device: free some space, then repeat the request"
    exhausted = descriptors.is_exhaustion(error)
    if exhausted and status != 503:
        status, message = 503, descriptors.advice()
    if not status:
        log.error("cannot answer %s %s", request.method, _shown(request), exc_info=error)
        return error_response(500, message or type(leaf).__name__)
    if status >= 500:
        # A client that exceeds its limits may be refused ten thousand times a second
        kind = "too many open files" if exhausted else message if isinstance(leaf, BodyError | BadRequest) else ""
        log.warning("cannot answer %s %s: %s", request.method, _shown(request), message, extra={"throttle": kind})
    return error_response(status, message)
