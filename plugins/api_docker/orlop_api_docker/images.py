"""Routes of images: decode, call the engine, encode. Long operations answer with a stream of JSON records.

Modules of the engine that only long operations need are imported by these operations, as in the engine's `images.service`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, NoReturn

import msgspec
import trio

from orlop_engine.images import documents
from orlop_engine.images.references import Reference, parse, push_reference, with_tag_or_digest
from orlop_engine.pace import Pace
from orlop_kernel.http.messages import Answer, Response
from orlop_kernel.routing.call import Call
from orlop_kernel.routing.router import Route
from orlop_sdk import InvalidParameter

from .responses import encode, json_bytes, json_response, stream_head
from .restricted import restrictions
from .versions import COUNTS_BLOBS, SEVERAL_PLATFORMS

if TYPE_CHECKING:
    from orlop_engine.engine import Engine
    from orlop_engine.images.details import ImageDetails, ListedImage
    from orlop_engine.images.platforms import Platform
    from orlop_engine.images.progress import Progress
    from orlop_engine.images.registry_auth import Credentials

__all__ = ["routes"]


class _PlatformJSON(msgspec.Struct):
    os: str = ""
    architecture: str = ""
    variant: str = ""


def _platform_json(text: str) -> Platform:
    """Parse the parameter `platform` of inspect, history, load, push and delete, which is a JSON object. In create,
    `platform` is a plain string."""
    from orlop_engine.images import platforms

    try:
        value = msgspec.json.decode(text.encode("utf-8", "surrogateescape"), type=_PlatformJSON)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InvalidParameter(f"failed to parse platform: {error}") from error
    if not value.os or not value.architecture:
        raise InvalidParameter("both OS and Architecture must be provided")
    return platforms.normalise(platforms.Platform(value.os, value.architecture, value.variant))


def _platform(call: Call, since: tuple[int, int]) -> Platform | None:
    text = call.arg("platform") if call.version >= since else ""
    return _platform_json(text) if text else None


def _platforms(call: Call) -> tuple[Platform, ...]:
    """All values of `platform`, which clients may repeat for save and load."""
    given = call.args("platform") if call.version >= (1, 48) else []
    if len(given) > 1 and call.version < (1, 52):
        raise InvalidParameter(
            "multiple platform parameters are not supported in this API version; use API version 1.52 or later"
        )
    return tuple(map(_platform_json, filter(None, given)))


def _is_restricted(call: Call) -> bool:
    """Whether the client is restricted. A restricted client may not see the registries from which other clients pulled
    images."""
    from orlop_engine.images.policy import UNRESTRICTED

    return restrictions(call).images is not UNRESTRICTED


def _import_name(repository: str, tag: str) -> Reference | None:
    if not repository:
        return None
    reference = parse(repository)
    if reference.digest:
        raise InvalidParameter("cannot import digest reference")
    return reference.with_tag(tag) if tag else reference.with_default_tag()


async def _push_credentials(call: Call) -> Credentials:
    """The credentials in the header or in the body. (Older clients send them in the body.) Like Docker, this ignores an
    invalid header, but not an invalid body."""
    from orlop_engine.images.registry_auth import credentials, credentials_of

    header = call.request.headers.get("x-registry-auth", "")
    if header:
        return credentials(header)
    body = await call.json_bytes()
    try:
        return credentials_of(body) if body else _missing("EOF")
    except ValueError as error:
        return _missing(str(error))


def _missing(reason: str) -> NoReturn:
    raise InvalidParameter(f"bad parameters and missing X-Registry-Auth: invalid X-Registry-Auth header: {reason}")


async def _stream(progress: Progress) -> Answer:
    """Answer with a stream once the first record exists. An error before the first record is answered with an HTTP error."""
    await progress.started()
    return stream_head(progress)


async def encoded_list(found: Sequence[ListedImage], version: tuple[int, int]) -> bytes:
    """`GET /images/json`."""
    from .wire.images import image_summary

    pace, pieces = Pace(), []
    for item in found:
        pieces.append(encode(image_summary(item, version)))
        await pace()
    return b"[" + b",".join(pieces) + b"]"


async def encoded_view(found: ImageDetails, version: tuple[int, int]) -> bytes:
    """`GET /images/{name}/json`. A large document is parsed on a thread."""
    from .wire.images import image_view

    if len(found.image.raw) > documents.LARGE:
        return await trio.to_thread.run_sync(lambda: encode(image_view(found, version)))
    return encode(image_view(found, version))


class _Routes:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.images = engine.images

    async def create(self, call: Call) -> Answer:
        from orlop_engine.images import platforms

        text = call.arg("platform") if call.version >= (1, 32) else ""
        platform = platforms.parse(text) if text else None
        if call.arg("fromImage"):
            return await self._pull(call, platform)
        if call.arg("fromSrc"):
            return await self._import(call, platform)
        raise InvalidParameter("invalid reference format")

    async def _pull(self, call: Call, platform: Platform | None) -> Answer:
        from orlop_engine.images.pull import PullRequest
        from orlop_engine.images.registry_auth import credentials

        reference = with_tag_or_digest(call.arg("fromImage"), call.arg("tag"))
        auth = credentials(call.request.headers.get("x-registry-auth", ""))
        request = PullRequest(reference, platform, auth, restrictions(call).images, restrictions(call).refuse)
        return await _stream(self.images.pull(request))

    async def _import(self, call: Call, platform: Platform | None) -> Answer:
        from orlop_engine.images.imports import ImportRequest

        source = call.arg("fromSrc")
        if source != "-" and "://" not in source:
            source = f"http://{source}"
        request = ImportRequest(
            source,
            _import_name(call.arg("repo"), call.arg("tag")),
            call.arg("message"),
            tuple(call.args("changes")),
            platform,
            restrictions(call).images,
            restrictions(call).refuse,
        )
        return await _stream(await self.images.import_image(request, call.pieces()))

    async def load(self, call: Call) -> Answer:
        # Start the answer only after the body has arrived, because a client that waits for "100 Continue" stops sending when
        # the answer begins. Every error is sent as a record, as in Docker.
        platforms, quiet = _platforms(call), call.flag("quiet", True)
        progress = self.images.load_archive(call.pieces(), platforms, quiet=quiet, policy=restrictions(call).images)
        await progress.ready()
        return stream_head(progress)

    async def save(self, call: Call) -> Answer:
        name = call.params.get("name")
        names = call.args("names") if name is None else [name]
        from orlop_engine.images.archive_save import SaveRequest

        request = SaveRequest(tuple(names), _platforms(call), restrictions(call).images)
        return stream_head(await self.images.save(request), "application/x-tar")

    async def list(self, call: Call) -> Answer:
        filters = call.filters()
        if call.version < (1, 25) and call.arg("filter"):
            filters["reference"] = [*filters.get("reference", []), call.arg("filter")]
        shared = call.flag("shared-size") and call.version >= (1, 42)
        manifests = call.flag("manifests") and call.version >= (1, 47)
        identity = call.flag("identity") and call.version >= (1, 54)
        if identity and not manifests:
            raise InvalidParameter("conflicting options: identity requires manifests=1")
        found = await self.images.listed(
            filters,
            everything=call.flag("all"),
            newest=call.version < SEVERAL_PLATFORMS,
            users=call.version >= (1, 51),
            shared_size=shared,
            manifests=manifests,
            targets=call.version >= (1, 48),
            origins=identity and not _is_restricted(call),
        )
        return json_bytes(await encoded_list(found, call.version))

    async def inspect(self, call: Call) -> Answer:
        platform, manifests = _platform(call, (1, 49)), call.flag("manifests") and call.version >= (1, 48)
        if platform and manifests:
            raise InvalidParameter("conflicting options: manifests and platform options cannot both be set")
        newest = call.version < SEVERAL_PLATFORMS
        found = await self.images.inspect(
            call.params["name"],
            platform,
            newest=newest,
            manifests=manifests,
            targets=call.version >= (1, 48),
            origins=call.version >= (1, 53) and not _is_restricted(call),
        )
        return json_bytes(await encoded_view(found, call.version))

    async def history(self, call: Call) -> Answer:
        from .wire.images import history_items

        newest = call.version < SEVERAL_PLATFORMS
        steps = self.images.history(call.params["name"], _platform(call, (1, 48)), newest=newest)
        return json_response(history_items(steps))

    async def attestations(self, call: Call) -> Answer:
        from .wire.images import attestation_view

        wanted = [text for text in call.args("platform") if text]
        if len(wanted) > 1:
            raise InvalidParameter("only one platform can be given")
        platform = _platform_json(wanted[0]) if wanted else None
        types = frozenset(call.args("type"))
        found = await self.images.attestations(call.params["name"], platform, types, statements=call.flag("statement"))
        return json_response([attestation_view(each) for each in found])

    async def tag(self, call: Call) -> Answer:
        await self.engine.run(
            self.images.tag, call.params["name"], call.arg("repo"), call.arg("tag"), restrictions(call).images
        )
        return Response(201)

    async def remove(self, call: Call) -> Answer:
        from .wire.images import deleted_items

        name, force = call.params["name"], call.flag("force")
        wanted = [_platform_json(text) for text in call.args("platforms")] if call.version >= (1, 50) else []
        prune, policy = not call.flag("noprune"), restrictions(call).images
        remove = partial(self.images.remove, name, force=force, prune=prune, platforms=wanted, policy=policy)
        return json_response(deleted_items(await self.engine.run(remove)))

    async def prune(self, call: Call) -> Answer:
        from .wire.images import PruneReport, deleted_items

        blobs = call.version >= COUNTS_BLOBS
        prune = partial(self.images.prune, call.filters(), restrictions(call).images, blobs=blobs)
        items, space = await self.engine.run(prune)
        return json_response(PruneReport(deleted_items(items) or None, space))

    async def push(self, call: Call) -> Answer:
        """Push an image, or all tags of the repository if neither `tag` nor the name has a tag."""
        reference = push_reference(call.params["name"], call.arg("tag"))
        from orlop_engine.images.transfers import PushRequest

        auth = await _push_credentials(call)
        platform = _platform(call, (1, 46))
        request = PushRequest(reference, auth, restrictions(call).images, restrictions(call).refuse, platform)
        return await _stream(self.images.push(request))

    async def distribution(self, call: Call) -> Answer:
        from orlop_engine.images.registry_auth import credentials

        auth = credentials(call.request.headers.get("x-registry-auth", ""))
        from .wire.images import distribution_view

        found = await self.images.inspect_distribution(call.params["name"], auth, restrictions(call).refuse)
        return json_response(distribution_view(found))

    async def search(self, call: Call) -> Answer:
        found = await self.images.search(
            call.arg("term"), call.integer("limit", 0), call.filters(), restrictions(call).refuse
        )
        return json_response(found)


def routes(engine: Engine) -> list[Route]:
    """All routes of `/images`, and `/distribution`."""
    images = _Routes(engine)
    return [
        Route("POST", "/images/create", images.create),
        Route("POST", "/images/load", images.load),
        Route("POST", "/images/prune", images.prune, (1, 25)),
        Route("GET", "/images/json", images.list),
        Route("GET", "/images/get", images.save),
        Route("GET", "/images/search", images.search),
        Route("GET", "/images/{name}/json", images.inspect),
        Route("GET", "/images/{name}/get", images.save),
        Route("GET", "/images/{name}/history", images.history),
        Route("GET", "/images/{name}/attestations", images.attestations, (1, 55)),
        Route("POST", "/images/{name}/push", images.push),
        Route("POST", "/images/{name}/tag", images.tag),
        Route("DELETE", "/images/{name}", images.remove),
        Route("GET", "/distribution/{name}/json", images.distribution, (1, 30)),
    ]
