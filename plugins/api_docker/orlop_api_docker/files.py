"""Routes for container files: archive, export, changes, commit."""

from __future__ import annotations

import base64
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from orlop_engine.containers.container import Container
from orlop_engine.images.references import Reference, parse
from orlop_engine.types.containers import ContainerConfig
from orlop_kernel.http.messages import Answer, Headers, Response, Streaming
from orlop_kernel.routing.call import Call
from orlop_kernel.routing.router import Route
from orlop_sdk import InvalidParameter
from orlop_sdk.base import rfc3339

from .responses import empty, json_response
from .restricted import restrictions

if TYPE_CHECKING:
    from orlop_engine.engine import Engine
    from orlop_monitor.unpack.request import Found

__all__ = ["routes"]

_TAR: Headers = (("Content-Type", "application/x-tar"),)


class CommitResponse(msgspec.Struct):
    id: str = msgspec.field(name="Id")


def _stat(found: Found) -> Headers:
    """The stat header, which clients read before the archive."""
    about = {
        "name": found.name,
        "size": found.size,
        "mode": found.mode,
        "mtime": rfc3339(found.mtime_ns),
        "linkTarget": found.link,
    }
    return (("X-Docker-Container-Path-Stat", base64.b64encode(msgspec.json.encode(about)).decode()),)


class _Routes:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def _of(self, call: Call) -> Container:
        return self.engine.containers.get(call.params["id"])

    @staticmethod
    def _path(call: Call) -> str:
        if not (path := call.arg("path")):
            raise InvalidParameter("invalid parameter: path can't be empty")
        return path

    async def look(self, call: Call) -> Answer:
        return empty(200, _stat(await self.engine.files.look(self._of(call), self._path(call))))

    async def get(self, call: Call) -> Answer:
        container, path = self._of(call), self._path(call)
        found, pieces = await self.engine.files.pack(container, path)
        self.engine.containers.events.publish(container, "archive-path")
        return Streaming(200, pieces, _TAR + _stat(found))

    async def put(self, call: Call) -> Answer:
        container, path = self._of(call), self._path(call)
        body = call.pieces()
        keep_kind, own = call.flag("noOverwriteDirNonDir"), call.flag("copyUIDGID")
        await self.engine.files.place(container, path, body, keep_kind=keep_kind, own=own)
        return Response(200)

    async def export(self, call: Call) -> Answer:
        pieces = await self.engine.files.export(self._of(call))
        return Streaming(200, pieces, (("Content-Type", "application/octet-stream"),))

    async def changes(self, call: Call) -> Answer:
        found = await self.engine.storage.changes(self._of(call).id)
        return json_response([{"Path": change.path, "Kind": int(change.kind)} for change in found] or None)

    async def commit(self, call: Call) -> Answer:
        container = self.engine.containers.get(call.arg("container"))
        given = (await call.json_bytes()).strip() not in (b"", b"null")
        config = await call.json(ContainerConfig) if given else None
        commit = partial(
            self.engine.files.commit,
            config=config,
            instructions_=call.args("changes"),
            comment=call.arg("comment"),
            author=call.arg("author"),
            pause=call.flag("pause", True),
            policy=restrictions(call).images,
        )
        image = await self.engine.run(commit, container, _name(call.arg("repo"), call.arg("tag")))
        return json_response(CommitResponse(image.id), 201)


def _name(repository: str, tag: str) -> Reference | None:
    if not repository:
        return None
    reference = parse(repository)
    if reference.digest:
        raise InvalidParameter("cannot commit to digest reference")
    if reference.familiar_name == "sha256":
        raise InvalidParameter("refusing to create an ambiguous tag using digest algorithm as name")
    return reference.with_tag(tag) if tag else reference.with_default_tag()


def routes(engine: Engine) -> list[Route]:
    own = _Routes(engine)
    return [
        Route("HEAD", "/containers/{id}/archive", own.look),
        Route("GET", "/containers/{id}/archive", own.get),
        Route("PUT", "/containers/{id}/archive", own.put),
        Route("GET", "/containers/{id}/export", own.export),
        Route("GET", "/containers/{id}/changes", own.changes),
        Route("POST", "/commit", own.commit),
    ]
