"""Exceptions to status codes: the one table. Below this seam errors carry their text, and nothing of HTTP."""

from __future__ import annotations

import errno
import logging

import msgspec

from orlop_api_docker.responses import error_response
from orlop_kernel import descriptors
from orlop_kernel.http import BadRequest
from orlop_kernel.http.messages import BodyError, Request, Response
from orlop_kernel.routing.decode import explain_validation
from orlop_sdk import errors

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
    """The exception to answer with out of a nursery's group: one that is meant for users, else the first."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = [_leaf(inner) for inner in error.exceptions]
    return next((leaf for leaf in leaves if _status(leaf)), leaves[0])


def _status(error: BaseException) -> int:
    """0 for what no user caused and no text explains."""
    if isinstance(error, BodyError | BadRequest):
        return error.status
    if isinstance(error, msgspec.ValidationError):
        return 400
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 0)


def _shown(request: Request) -> str:
    """The target without its query, where passwords are (`fromSrc=https://USER:TOKEN@...`). As it came: a path that is
    decoded could begin a new line of the log."""
    return request.target.partition("?")[0]


def answer_error(request: Request, error: Exception) -> Response:
    """What the client is told. Failures of the machine and of this program are logged as well, the latter with their
    traceback, which no client ever sees."""
    leaf = _leaf(error)
    status = _status(leaf)
    message = explain_validation(leaf) if isinstance(leaf, msgspec.ValidationError) else str(leaf)
    if isinstance(leaf, OSError) and leaf.errno == errno.ENOSPC:
        # Nobody's fault here, and the one failure of the machine that users mend by themselves.
        status, message = 500, "no space left on device: free some space, the request can then be made again"
    exhausted = descriptors.is_exhaustion(error)
    if exhausted and status != 503:
        status, message = 503, descriptors.advice()
    if not status:
        log.error("cannot answer %s %s", request.method, _shown(request), exc_info=error)
        return error_response(500, message or type(leaf).__name__)
    if status >= 500:
        # What a client has too much of may be refused ten thousand times a second
        kind = "too many open files" if exhausted else message if isinstance(leaf, BodyError | BadRequest) else ""
        log.warning("cannot answer %s %s: %s", request.method, _shown(request), message, extra={"throttle": kind})
    return error_response(status, message)
