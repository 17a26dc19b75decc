"""Routes of the daemon itself: ping, version, info, events, disk usage, login.

Requests other than ping and events need more modules of the engine. The first such request imports them.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from functools import cached_property
from typing import TYPE_CHECKING

from msgspec import Struct

from orlop_api_docker import API_VERSION
from orlop_kernel.events import Subscription
from orlop_kernel.http.messages import Answer, Response
from orlop_kernel.routing.call import Call
from orlop_kernel.routing.router import Route
from orlop_sdk import InvalidParameter

from .container_views import ContainerViews
from .keys import ApiKeys
from .responses import COMMON, json_response, stream_head
from .restricted import restrictions
from .versions import COUNTS_BLOBS

if TYPE_CHECKING:
    from orlop_engine.engine import Engine
    from orlop_engine.system.usage import DiskUsageService

    from .builder import Builder
    from .info import Information

__all__ = ["parse_moment", "routes"]


# These headers have Docker's values, because clients read the builder's version and the swarm state from a ping
def _pong(body: bytes, builder: str, experimental: str) -> Response:
    headers = (
        *((name, experimental if name == "Docker-Experimental" else value) for name, value in COMMON),
        ("Builder-Version", builder),
        ("Swarm", "inactive"),
        ("Cache-Control", "no-cache, no-store, must-revalidate"),
        ("Pragma", "no-cache"),
        ("Content-Type", "text/plain; charset=utf-8"),
    )
    return Response(200, body, headers)


# The answers to a ping. The key is: the body, whether clients should build with BuildKit, and `experimental` (if false, the
# client hides `checkpoint`). The answers are encoded only once, because ping is the most frequent request.
_PONGS = {
    (body, buildkit, experimental): _pong(body, "2" if buildkit else "1", str(experimental).lower())
    for body in (b"OK", b"")
    for buildkit in (True, False)
    for experimental in (True, False)
}

_MOMENT = re.compile(r"([+-]?\d{1,15})(?:\.(\d{1,9})\d*)?", re.ASCII)
_SEQUENCE = "application/json-seq"
_LINES = ("application/jsonl", "application/x-ndjson")


def parse_moment(text: str, name: str) -> int | None:
    """Parse `since` or `until` to ns. The text is Unix seconds with up to nine digits of fraction, because clients convert
    dates and durations themselves. None if the parameter is absent, "" or "-1", as in Docker."""
    if text in ("", "-1"):
        return None
    match = _MOMENT.fullmatch(text)
    if match is None:
        raise InvalidParameter(f'invalid {name}: "{text}" is not a time in Unix seconds')
    return int(match[1]) * 1_000_000_000 + int((match[2] or "").ljust(9, "0"))


def event_media_type(accept: str, version: tuple[int, int]) -> str:
    """The media type for events: the known type in `Accept`, otherwise the default of the API version."""
    wanted = accept.partition(";")[0].strip()
    if wanted == _SEQUENCE or wanted in _LINES:
        return wanted
    return "application/json" if version < (1, 52) else _LINES[0]


async def event_pieces(subscription: Subscription, version: tuple[int, int], sequence: bool) -> AsyncIterator[bytes]:
    """Encoded records. Each record is a line with one JSON object. With `sequence`, the records form a JSON text sequence,
    in which each record begins with RS (RFC 7464)."""
    from .wire.events import encode_event

    head = b"\x1e" if sequence else b""
    legacy = version < (1, 52)
    try:
        async for event in subscription:
            if event.type == "image" and event.action == "create" and version < (1, 46):
                continue  # clients of that API version misinterpret this event
            yield head + encode_event(event, legacy=legacy) + b"\n"
    finally:
        subscription.close()


class AuthConfig(Struct, frozen=True):
    """The body of `POST /auth`. The header X-Registry-Auth has the same content."""

    username: str = ""
    password: str = ""
    serveraddress: str = ""
    identitytoken: str = ""
    registrytoken: str = ""
    auth: str = ""
    email: str = ""


class _Routes:
    def __init__(self, engine: Engine, views: ContainerViews, builder: Builder | None) -> None:
        self.engine, self.views, self.builder = engine, views, builder

    @cached_property
    def information(self) -> Information:
        from .info import Information

        return Information(self.engine)

    @cached_property
    def measuring(self) -> DiskUsageService:
        from orlop_engine.system.usage import DiskUsageService

        engine = self.engine
        return DiskUsageService(engine.containers, engine.images, engine.volumes, engine.nursery)

    async def ping(self, call: Call) -> Answer:
        return self._pong(b"OK")

    async def ping_head(self, call: Call) -> Answer:
        return self._pong(b"")

    def _pong(self, body: bytes) -> Response:
        config = self.engine.config
        buildkit = self.builder is not None and config.features.get("buildkit", True)
        return _PONGS[body, buildkit, config.experimental]

    async def version(self, call: Call) -> Answer:
        oldest = self.engine.config.daemon.part(ApiKeys).min_api_version
        return json_response(await self.information.version(API_VERSION, oldest))

    async def info(self, call: Call) -> Answer:
        return json_response(await self.information.info(call.version))

    async def events(self, call: Call) -> Answer:
        since, until = parse_moment(call.arg("since"), "since"), parse_moment(call.arg("until"), "until")
        if since is not None and until is not None and until < since:
            raise InvalidParameter(f"`since` time ({call.arg('since')}) cannot be after `until` time ({call.arg('until')})")
        from .event_filters import EventFilter

        media = event_media_type(call.request.headers.get("accept", ""), call.version)
        subscription = self.engine.events.subscribe(since, until, EventFilter(call.filters()))
        return stream_head(event_pieces(subscription, call.version, media == _SEQUENCE), media)

    async def disk_usage(self, call: Call) -> Answer:
        from orlop_engine.system.usage import OBJECT_TYPES

        from .disk_usage import disk_usage

        types = frozenset(call.args("type")) if call.version >= (1, 42) else frozenset()
        for name in types - OBJECT_TYPES:
            raise InvalidParameter(f"unknown object type: {name}")
        wanted = types or OBJECT_TYPES
        measured = await self.measuring.measure(wanted, blobs=call.version >= COUNTS_BLOBS)
        cache = await self.builder.usage() if self.builder is not None and "build-cache" in wanted else ()
        verbose = call.version >= (1, 52) and call.flag("verbose")
        return json_response(disk_usage(measured, self.views, wanted, call.version, cache, verbose=verbose))

    async def auth(self, call: Call) -> Answer:
        from orlop_engine.images.registry_auth import Credentials
        from orlop_engine.system.login import check_login

        given = await call.json(AuthConfig, required=True)
        credentials = Credentials(given.username, given.password, given.identitytoken, given.registrytoken)
        await check_login(self.engine.config, given.serveraddress, credentials, restrictions(call).refuse)
        return json_response({"IdentityToken": "", "Status": "Login Succeeded"})


def routes(engine: Engine, views: ContainerViews | None = None, builder: Builder | None = None) -> list[Route]:
    own = _Routes(engine, views or ContainerViews(engine), builder)
    return [
        Route("GET", "/_ping", own.ping),
        Route("HEAD", "/_ping", own.ping_head),
        Route("GET", "/version", own.version),
        Route("GET", "/info", own.info),
        Route("GET", "/events", own.events),
        Route("GET", "/system/df", own.disk_usage, (1, 25)),
        Route("POST", "/auth", own.auth),
    ]
