"""The Engine API's conventions for answers that no handler makes: Docker's error objects, common headers and version
numbers."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from orlop_kernel.http.messages import Response
from orlop_kernel.routing.dialect import Dialect
from orlop_kernel.routing.router import Guard, OnAnswer, Route, Router
from orlop_sdk.errors import InvalidParameter

from .decode import decode_json
from .errors import answer_error
from .responses import empty, with_common
from .versions import API_VERSION, MIN_API_VERSION, parse_version

__all__ = ["docker_dialect", "docker_router"]

_NOT_FOUND = Response(404, b'{"message":"page not found"}\n', (("Content-Type", "application/json"),))


def docker_dialect(oldest: str = MIN_API_VERSION) -> Dialect:
    """The conventions as a `Dialect`. `oldest` is the oldest supported API version (`min-api-version`)."""
    return Dialect(
        answer_error=answer_error,
        decorate=with_common,
        check_version=partial(_check_version, oldest=oldest),
        newest=parse_version(API_VERSION),
        decode=decode_json,
        not_found=_NOT_FOUND,
        options=empty(200),
    )


def docker_router(
    routes: Iterable[Route], *, guard: Guard | None = None, on_answer: OnAnswer | None = None, oldest: str = MIN_API_VERSION
) -> Router:
    """A router with only these routes, for tests and tools of the front end."""
    return Router(routes, docker_dialect(oldest), guard=guard, on_answer=on_answer)


def _check_version(asked: str, oldest: str) -> tuple[int, int]:
    parts = [int(part) if part else 0 for part in asked.split(".")[:2]]
    version = (parts[0], parts[1] if len(parts) > 1 else 0)
    if version < parse_version(oldest):
        raise InvalidParameter(
            f"client version {asked} is too old. Minimum supported API version is {oldest}, "
            "please upgrade your client to a newer version"
        )
    if version > parse_version(API_VERSION):
        raise InvalidParameter(f"client version {asked} is too new. Maximum supported API version is {API_VERSION}")
    return version
