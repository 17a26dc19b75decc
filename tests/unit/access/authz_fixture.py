"""Authorization plugins on sockets, and a router whose guard asks them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self, cast

import msgspec
import trio

from orlop_api_docker.dialect import docker_router
from orlop_api_docker.responses import json_response
from orlop_guard_listeners.audit import Audit
from orlop_guard_listeners.authz import Chain, Plugin
from orlop_guard_listeners.authz_find import Address
from orlop_guard_listeners.guard import Guard
from orlop_guard_listeners.keys import AuditLog
from orlop_kernel.http.listeners import open_unix_listener
from orlop_kernel.http.messages import Answer, BodyError, Peer, Request, Response
from orlop_kernel.http.server import Server
from orlop_kernel.routing.call import Call
from orlop_kernel.routing.router import Route, Router

Verdict = dict[str, Any]
ALLOW: Verdict = {"Allow": True}


class Body:
    def __init__(self, data: bytes) -> None:
        self.data = data

    async def read(self, limit: int) -> bytes:
        if len(self.data) > limit:
            raise BodyError(413, "request body too large")
        data, self.data = self.data, b""
        return data

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        data, self.data = self.data, b""
        if not data:
            raise StopAsyncIteration
        return data


PEER = Peer("tls", address="192.0.2.1:5", subject="CN=anna,O=crew", common_name="anna", certificate=b"\x30\x01\x00")


def request(method: str, path: str, body: bytes = b"", kind: str = "application/json", peer: Peer = PEER) -> Request:
    headers = {"host": "d", "x-registry-auth": "secret", **({"content-type": kind} if body else {})}
    return Request(method, f"{path}?a=b", path, {}, headers, Body(body), peer)


class Fake:
    """A plugin on a socket, served by Orlop's own HTTP server in this event loop."""

    def __init__(self, name: str, directory: Path, verdict: Callable[[str, Verdict], Verdict | None]) -> None:
        self.path = str(directory / f"{name}.sock")
        self.plugin = Plugin(name, Address(f"unix://{self.path}", self.path))
        self.asked: list[tuple[str, Verdict]] = []
        self.implements = ["authz"]
        self._verdict = verdict

    async def __call__(self, asked: Request) -> Answer:
        method, question = asked.path[1:], json.loads(await asked.body.read(1 << 24) or b"{}")
        self.asked.append((method, question))
        if method == "Plugin.Activate":
            return json_response({"Implements": self.implements})
        verdict = self._verdict(method, question)
        if verdict is None:
            await trio.sleep_forever()
        return json_response(verdict) if isinstance(verdict, dict) else Response(200, b"what?")

    def questions(self, method: str) -> list[Verdict]:
        return [question for name, question in self.asked if name == f"AuthZPlugin.{method}"]


@asynccontextmanager
async def serving(*fakes: Fake) -> AsyncIterator[Chain]:
    chain = Chain()
    chain.replace(tuple(fake.plugin for fake in fakes))
    async with trio.open_nursery() as nursery:
        for fake in fakes:
            await nursery.start(Server(fake).serve, [open_unix_listener(fake.path)])
        with trio.fail_after(20):
            yield chain
        await chain.aclose()
        nursery.cancel_scope.cancel()


def api(handler: Callable[[Call], Awaitable[Answer]], chain: Chain, audit: Audit | None = None) -> Router:
    guard = Guard(cast("Any", SimpleNamespace()), None, audit, chain)
    return docker_router([Route(method, "/x", handler) for method in ("GET", "POST")], guard=guard)


def told(answer: Answer) -> tuple[int, str]:
    assert isinstance(answer, Response)
    return answer.status, str(msgspec.json.decode(answer.body)["message"])


def logged(tmp_path: Path, ask: Callable[[Audit], Awaitable[Any]]) -> list[dict[str, Any]]:
    async def main() -> None:
        async with Audit.open(AuditLog(path=str(tmp_path / "audit.log"))) as audit:
            await ask(audit)

    trio.run(main)
    return [json.loads(line) for line in (tmp_path / "audit.log").read_text().splitlines()]
