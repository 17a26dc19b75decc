"""Finds the route of a request: `Router` is the HTTP server's handler.

Lookup does not scan the routes: literal paths are in a dict. Other paths are indexed by method, first and last segment, so
that at most one or two patterns must be tried. A parameter may contain "/", because image names do (as in Docker).
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import NamedTuple

from orlop_kernel.failures import forget_frames
from orlop_kernel.http.messages import Answer, Request, Response, Streaming
from orlop_kernel.routing.call import Call
from orlop_kernel.routing.dialect import Dialect, Version
from orlop_sdk.errors import InvalidParameter

__all__ = ["Guard", "OnAnswer", "Route", "RouteHandler", "Router"]

RouteHandler = Callable[[Call], Awaitable[Answer]]

Guard = Callable[[Call, Callable[[], Awaitable[Answer]]], Awaitable[Answer]]
"""Wraps every call, including unknown routes (`pattern` ""). A guard calls and awaits the second argument once to get the
answer, or answers itself. Guard and handler get the same Call, so `call.json` returns the same object to both."""

OnAnswer = Callable[[Call, int, float], None]
"""Called after a handler, with the status and the seconds until the answer (a stream: until its beginning). Status
101 means a hijack."""


class Route(NamedTuple):
    """`pattern` is "/containers/{id}/json"; a parameter matches one or more segments. `since` is the API version that
    introduced the route."""

    method: str
    pattern: str
    handler: RouteHandler
    since: Version = (0, 0)


_VERSIONED = re.compile(r"/v([0-9.]{1,16})(/.*)", re.DOTALL)
_PARAMETER = re.compile(r"\{(\w+)\}")


@functools.cache
def _expression(pattern: str) -> re.Pattern[str]:
    """A route's pattern as a regular expression. It is compiled at the first request that may match the route."""
    parts = enumerate(_PARAMETER.split(pattern))
    text = "".join(f"(?P<{part}>.+)" if index % 2 else re.escape(part) for index, part in parts)
    return re.compile(text, re.DOTALL)


class Router:
    """The handler. Routes are fixed at construction; two routes with the same method and pattern are an error. `guard`
    and `on_answer` may be set or removed at any time, and apply from the next request on, on every connection."""

    def __init__(
        self,
        routes: Iterable[Route],
        dialect: Dialect,
        *,
        guard: Guard | None = None,
        on_answer: OnAnswer | None = None,
    ) -> None:
        self._static: dict[tuple[str, str], Route] = {}
        self._patterns: dict[tuple[str, str, str], list[Route]] = {}
        self.guard = guard
        self.on_answer = on_answer
        self.dialect = dialect
        self.routes = tuple(routes)
        for route in self.routes:
            self._add(route)
        for patterns in self._patterns.values():
            # Try "/a/{id}/b/{c}" before "/a/{id}", which matches the same paths
            patterns.sort(key=lambda entry: -_PARAMETER.sub("", entry.pattern).count("/"))

    def _add(self, route: Route) -> None:
        segments = route.pattern.split("/")[1:]
        if "{" not in route.pattern:
            key = (route.method, route.pattern)
            if key in self._static:
                raise ValueError(f"two routes for {route.method} {route.pattern}")
            self._static[key] = route
            return
        last = "" if "{" in segments[-1] else segments[-1]
        patterns = self._patterns.setdefault((route.method, segments[0], last), [])
        if any(other.pattern == route.pattern for other in patterns):
            raise ValueError(f"two routes for {route.method} {route.pattern}")
        patterns.append(route)

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]] | None:
        """The route for a path without version, and the values of its parameters."""
        route = self._static.get((method, path))
        if route:
            return route, {}
        first = path[1:].partition("/")[0]
        last = path.rpartition("/")[2]
        for key in ((method, first, last), (method, first, "")):
            for route in self._patterns.get(key, ()):
                match = _expression(route.pattern).fullmatch(path)
                if match:
                    return route, match.groupdict()
        return None

    def __call__(self, request: Request) -> Awaitable[Answer]:
        """Answer a request: see http.messages.Handler. Raises only cancellation. Returns the handler's awaitable, because a
        coroutine around it would make a ping measurably slower."""
        path, asked = request.path, ""
        versioned = _VERSIONED.fullmatch(path) if path.startswith("/v") else None
        if versioned:
            asked, path = versioned[1], versioned[2]
        found = self.find(request.method, path)
        if not found:
            nothing = self.dialect.options if request.method == "OPTIONS" else self.dialect.not_found
            if not self.guard:
                return _same(nothing)
            return self.guard(Call(request, self.dialect.newest, {}, "", self.dialect), partial(_same, nothing))
        route, params = found
        call = Call(request, self.dialect.newest, params, route.pattern, self.dialect)
        if self.guard:
            return self.guard(call, partial(self._answer, call, route, asked))
        return self._answer(call, route, asked)

    async def _answer(self, call: Call, route: Route, asked: str) -> Answer:
        request = call.request
        began = time.perf_counter() if self.on_answer else 0.0
        answer: Answer
        try:
            if asked:
                call.version = self.dialect.check_version(asked)
            if call.version < route.since:
                raise InvalidParameter(
                    f"{request.method} {request.path} requires minimum API version {route.since[0]}.{route.since[1]}"
                )
            answer = self.dialect.decorate(await route.handler(call))
        except Exception as error:
            answer = self.dialect.answer_error(request, error)
            forget_frames(error)
        if self.on_answer:
            status = answer.status if isinstance(answer, Response | Streaming) else 101
            self.on_answer(call, status, time.perf_counter() - began)
        return answer


async def _same(answer: Answer) -> Answer:
    return answer
