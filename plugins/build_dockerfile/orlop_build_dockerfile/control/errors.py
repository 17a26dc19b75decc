"""Converts errors of builds to statuses of calls, and back. A status contains details that clients render, such as the lines
of the Dockerfile (google.rpc.Status, with JSON in its `Any`s)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import wraps

from google.protobuf.message import DecodeError

from orlop_build_dockerfile.contracts import BuildFailed
from orlop_build_dockerfile.grpc import Call, Code, Handler, RpcError
from orlop_build_dockerfile.nurseries import leading_error
from orlop_build_dockerfile.pb.status_pb2 import Status
from orlop_sdk import Conflict, Forbidden, InvalidParameter, NotFound, OrlopError, Unavailable

__all__ = ["failed", "from_status", "status_message", "status_of", "translated"]

_DETAILS = 4 << 20  # bytes; details are sent in headers, as base64, and grpc-go's clients accept 16 MiB of headers
_CODES: Sequence[tuple[type[OrlopError], Code]] = (
    (NotFound, Code.NOT_FOUND),
    (InvalidParameter, Code.INVALID_ARGUMENT),
    (Forbidden, Code.PERMISSION_DENIED),
    (Conflict, Code.FAILED_PRECONDITION),
    (Unavailable, Code.UNAVAILABLE),
)


def failed(error: BaseException) -> BuildFailed:
    """The `BuildFailed` for an exception."""
    if isinstance(error, BaseExceptionGroup):
        error = leading_error(error)
    if isinstance(error, BuildFailed):
        return error
    if isinstance(error, RpcError):
        return BuildFailed(error.message, code=error.code)
    if isinstance(error, OrlopError):
        return BuildFailed(str(error), code=next((code for kind, code in _CODES if isinstance(error, kind)), Code.UNKNOWN))
    return BuildFailed(str(error) or type(error).__name__)


def status_message(error: BuildFailed) -> Status:
    status = Status(code=error.code, message=error.message)
    left = _DETAILS
    for name, value in error.details:
        left -= len(value)
        if left >= 0:
            status.details.add(type_url=name, value=value)
    return status


def status_of(error: BuildFailed) -> RpcError:
    status = status_message(error)
    return RpcError(error.code, error.message, status.SerializeToString() if status.details else b"")


def from_status(status: Status) -> BuildFailed:
    details = [(each.type_url, each.value) for each in status.details]
    return BuildFailed(status.message, code=status.code, details=details)


def translated(handler: Handler) -> Handler:
    """Wraps a handler. If the handler raises a `BuildFailed` or `OrlopError`, alone or in a group, this error becomes the
    status of the call."""

    @wraps(handler)
    async def handle(call: Call) -> None:
        try:
            await handler(call)
        except (BuildFailed, OrlopError) as error:
            raise status_of(failed(error)) from error
        except DecodeError as error:
            raise RpcError(Code.INVALID_ARGUMENT, "the request is malformed") from error
        except ExceptionGroup as group:
            leading = leading_error(group)
            if isinstance(leading, BuildFailed | OrlopError):
                raise status_of(failed(leading)) from group
            raise

    return handle
