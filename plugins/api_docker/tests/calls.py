"""Requests and calls without a connection."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Self

import trio

from orlop_api_docker.dialect import docker_dialect
from orlop_kernel.http.head import HeadParser
from orlop_kernel.http.messages import Answer, BodyError, Limits, Peer, Request, Response
from orlop_kernel.routing.call import Call
from orlop_kernel.routing.router import Router


class Body:
    """A request body that has already arrived."""

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
        raise StopAsyncIteration


def request(method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Request:
    parsed = HeadParser(Limits()).parse(f"{method} {target} HTTP/1.1\r\nHost: d\r\n\r\n".encode())
    assert parsed
    head = parsed[0]
    return Request(head.method, head.target, head.path, head.query, headers or {}, Body(body), Peer("unix"))


def ask(api: Router, method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
    async def main() -> Answer:
        return await api(request(method, target, body, headers))

    return trio.run(main)


def message(answer: Answer) -> tuple[int, str]:
    assert isinstance(answer, Response)
    assert ("Content-Type", "application/json") in answer.headers
    assert answer.body.endswith(b"\n")
    return answer.status, json.loads(answer.body)["message"]


def call(query: str = "", body: bytes = b"", content_type: str = "", upgrade: bool = False, version: int = 51) -> Call:
    headers = ({"content-type": content_type} if content_type else {}) | ({"upgrade": "tcp"} if upgrade else {})
    return Call(request("GET", f"/x?{query}", body, headers), (1, version), {}, dialect=docker_dialect())
