"""Errors of registries, with the messages that Docker's users know (distribution spec, error codes). This module does no
I/O.

The messages are the same as in distribution/registry/client/errors.go and moby's daemon/internal/distribution/errors.go.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Iterator
from http import HTTPStatus

import msgspec

from orlop_sdk import DriverError, NotFound, OrlopError, Unauthorized

from .references import Reference
from .registry_auth import challenges

__all__ = ["NO_CREDENTIALS", "RegistryError", "explain_os_error", "from_answer", "retry_after", "translate"]

NO_CREDENTIALS = "no basic auth credentials"

_FINAL = {"UNAUTHORIZED", "UNSUPPORTED", "DENIED", "TOOMANYREQUESTS", "NAME_UNKNOWN", "BLOB_UNKNOWN", "MANIFEST_UNKNOWN"}
_TEXTS = {
    "UNAUTHORIZED": "authentication required",
    "DENIED": "requested access to the resource is denied",
    "TOOMANYREQUESTS": "too many requests",
    "MANIFEST_UNKNOWN": "manifest unknown",
    "NAME_UNKNOWN": "repository name not known to registry",
    "BLOB_UNKNOWN": "blob unknown to registry",
    "UNKNOWN": "unknown error",
}


class RegistryError(DriverError):
    """A registry refused a request, or failed. `code` is the registry's error code, "" if the answer contained none.
    `retry`: a retry may succeed."""

    def __init__(self, message: str, *, code: str = "", status: int = 0, retry: bool = False) -> None:
        super().__init__(message)
        self.code, self.status, self.retry = code, status, retry
        self.wait: float | None = None
        """The seconds that the registry asks to wait before the next request; None if it does not ask for a pause."""

    @property
    def answered(self) -> bool:
        """Whether a registry answered. If it did, the client does not try another protocol or address."""
        return bool(self.code or self.status)


class _Error(msgspec.Struct):
    code: str = ""
    message: str = ""


class _Errors(msgspec.Struct):
    errors: list[_Error] | None = None
    details: str = ""


def _coded(code: str, text: str, status: int) -> RegistryError:
    code = code.upper()[:100] or "UNKNOWN"
    text = text[:2000] or _TEXTS.get(code, "")
    return RegistryError(f"{code.lower().replace('_', ' ')}: {text}", code=code, status=status, retry=code not in _FINAL)


def _from_body(status: int, body: bytes) -> RegistryError | None:
    try:
        found = msgspec.json.decode(body, type=_Errors)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
    if found.errors:
        return _coded(found.errors[0].code, found.errors[0].message, status)
    if found.details:
        code = {401: "UNAUTHORIZED", 429: "TOOMANYREQUESTS"}.get(status, "UNKNOWN")
        return _coded(code, found.details, status)
    return None


def _from_challenge(status: int, header: str) -> RegistryError | None:
    """The error for an error code of OAuth (RFC 6750, section 3.1); None if the header contains no such code."""
    for challenge in challenges(header):
        code = {"invalid_token": "UNAUTHORIZED", "insufficient_scope": "DENIED"}.get(challenge.parameters.get("error", ""))
        if challenge.scheme == "bearer" and code:
            return _coded(code, challenge.parameters.get("error_description", ""), status)
    return None


def from_answer(status: int, body: bytes, authenticate: str = "") -> RegistryError:
    """The error for a response with status 400 or above."""
    if status < 400 or status >= 500:
        try:
            phrase = f"{status} {HTTPStatus(status).phrase}"
        except ValueError:
            phrase = str(status)
        return RegistryError(f"received unexpected HTTP status: {phrase}", status=status, retry=status >= 500)
    found = _from_challenge(status, authenticate) or _from_body(status, body)
    if found is not None:
        return found
    if status in (401, 403, 429):
        return _coded({401: "UNAUTHORIZED", 403: "DENIED", 429: "TOOMANYREQUESTS"}[status], "", status)
    # Do not show the body, because otherwise a client could read from a server that only this host can reach
    return RegistryError(f"error parsing HTTP {status} response body: it is not the error of a registry", status=status)


def retry_after(text: str) -> float | None:
    """`Retry-After` in seconds (RFC 9110, section 10.2.3). None for a date, because clocks may differ, and in practice
    registries send seconds."""
    return float(text) if text.isascii() and text.isdigit() and len(text) < 6 else None


def translate(error: RegistryError, reference: Reference) -> OrlopError:
    """The error and status that the client of a pull gets."""
    if error.code == "DENIED":
        return NotFound(
            f"pull access denied for {reference.familiar_name}, repository does not exist or may require 'docker login'"
            f": {error}"
        )
    if error.code == "MANIFEST_UNKNOWN":
        return NotFound(f"manifest for {reference.familiar} not found: {error}")
    if error.code == "NAME_UNKNOWN":
        return NotFound(f"repository {reference.familiar_name} not found: {error}")
    return Unauthorized(str(error)) if error.code == "UNAUTHORIZED" else error


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An exception with all its causes, contexts and group members."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop(0)
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions
        waiting += [one.__cause__, one.__context__]


def explain_os_error(error: BaseException, host: str, port: int) -> str:
    """The reason why a connection failed, in the words of Go's libraries, because users search for these words."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            unknown = cause.verify_code in (18, 19, 20, 21)  # X509_V_ERR_*: no chain to a trusted authority
            reason = "signed by unknown authority" if unknown else f"is not valid: {cause.verify_message}"
            return f"tls: failed to verify certificate: x509: certificate {reason}"
        if isinstance(cause, ssl.SSLError):
            if cause.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"):
                return "http: server gave HTTP response to HTTPS client"
            return f"remote error: tls: {(cause.reason or str(cause)).lower().replace('_', ' ')}"
        if isinstance(cause, socket.gaierror):
            return f"dial tcp: lookup {host}: no such host"
        if isinstance(cause, OSError) and cause.errno:
            if cause.errno in (errno.ECONNRESET, errno.EPIPE):
                return "connection reset by peer"
            address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            return f"dial tcp {address}: connect: {os.strerror(cause.errno).lower()}"
    return str(error) or type(error).__name__
