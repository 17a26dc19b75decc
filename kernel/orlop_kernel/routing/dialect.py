"""The protocol conventions of a front end: errors, unknown paths, headers, versions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from orlop_kernel.http.messages import Answer, Request, Response
from orlop_sdk.errors import InvalidParameter

__all__ = ["PLAIN", "Dialect", "Version"]

Version = tuple[int, int]

_TEXT = (("Content-Type", "text/plain; charset=utf-8"),)


def _plain_error(request: Request, error: Exception) -> Response:
    return Response(500, b"internal server error\n", _TEXT)


class Dialect(NamedTuple):
    """`answer_error` turns an exception into an answer and must not raise. `decorate` adds headers to every answer.
    `check_version` parses the version of a path ("1.43" of "/v1.43/info") and raises errors that `answer_error` can format;
    `newest` is used for a path without a version. `decode` reads a JSON body as a value of a type, on a thread if the body
    is large. `decode` raises InvalidParameter for bad JSON and for a member that occurs twice (decision 0012)."""

    answer_error: Callable[[Request, Exception], Response]
    decorate: Callable[[Answer], Answer]
    check_version: Callable[[str], Version]
    newest: Version
    decode: Callable[[bytes, type], Any]
    not_found: Response
    options: Response


def _no_version(text: str) -> Version:
    raise ValueError(f"no front end serves version {text}")


def _no_bodies(data: bytes, kind: type) -> NoReturn:
    raise InvalidParameter("no front end reads bodies of requests")


PLAIN = Dialect(
    answer_error=_plain_error,
    decorate=lambda answer: answer,
    check_version=_no_version,
    newest=(0, 0),
    decode=_no_bodies,
    not_found=Response(404, b"no front end serves this: see front-ends in daemon.json\n", _TEXT),
    options=Response(200, b"", ()),
)
"""The dialect of a daemon without a front end."""
