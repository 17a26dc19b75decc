"""The object of a call in the audit log: its kind, ID and name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from orlop_engine.types.networks import ConnectRequest, DisconnectRequest
from orlop_kernel.http.messages import Answer, Response
from orlop_kernel.routing.call import Call
from orlop_sdk import OrlopError

if TYPE_CHECKING:
    from orlop_engine.engine import Engine

__all__ = ["clean", "describe", "describe_body", "describe_made"]

_KINDS = {
    "containers": "container",
    "distribution": "image",
    "exec": "exec",
    "images": "image",
    "networks": "network",
    "volumes": "volume",
}
_MADE = {
    "/commit": ("Id", "id"),
    "/containers/create": ("Id", "id"),
    "/containers/{id}/exec": ("Id", "exec"),
    "/networks/create": ("Id", "id"),
    "/volumes/create": ("Name", "name"),
}
"""Route -> the member of a 201 answer that identifies the created object, and the key of this member in the log."""


def describe(engine: Engine, call: Call) -> dict[str, str]:
    """The object of a call before its execution; {} if the call does not concern a single object. If the object does not
    exist, its name is the name in the request."""
    kind = _kind(call)
    text = call.params.get("id") or call.params.get("name") or ""
    if call.pattern in ("/containers/create", "/orlop/containers/plan"):
        # The name is new. If it is the beginning of an id, it does not mean the container with this id
        return {"type": kind, "name": clean(call.arg("name"))} if call.arg("name") else {}
    if call.pattern == "/commit":
        name = ":".join(filter(None, (call.arg("repo"), call.arg("tag"))))
        return {"type": "image", **({"name": clean(name)} if name else {}), **_container(engine, call.arg("container"))}
    if call.pattern == "/images/{name}/push" and call.arg("tag"):
        text = f"{text}:{call.arg('tag')}"
    elif call.pattern == "/images/create":
        text = call.arg("fromImage") or call.arg("fromSrc")
    elif call.pattern == "/images/get":
        text = " ".join(call.args("names"))
    if not kind or not text:
        return {}
    try:
        return {"type": kind, **_known(engine, kind, text)}
    except OrlopError:
        return {"type": kind, "name": clean(text)}


def describe_made(engine: Engine, call: Call, answer: Answer) -> dict[str, str]:
    """The object that the call has created."""
    member, key = _MADE.get(call.pattern, ("", ""))
    if not member or not isinstance(answer, Response) or answer.status != 201:
        return {}
    made = str(msgspec.json.decode(answer.body)[member])
    kind = _kind(call)
    if not kind or key == "exec":  # the object already has its kind
        return {key: made}
    try:
        return {"type": kind, **_known(engine, kind, made)}
    except OrlopError:  # the object was removed meanwhile
        return {"type": kind, key: made}


def describe_body(engine: Engine, call: Call) -> dict[str, str]:
    """The container in the body of a finished call, if the body was decoded."""
    body = call.body
    return _container(engine, body.container) if isinstance(body, ConnectRequest | DisconnectRequest) else {}


def _kind(call: Call) -> str:
    return _KINDS.get(call.pattern.removeprefix("/orlop")[1:].partition("/")[0], "")


def _container(engine: Engine, text: str) -> dict[str, str]:
    try:
        return {"container": engine.containers.get(text).id} if text else {}
    except OrlopError:
        return {"container": clean(text)}


def _known(engine: Engine, kind: str, text: str) -> dict[str, str]:
    if kind == "container":
        container = engine.containers.get(text)
        return {"id": container.id, "name": container.name}
    if kind == "exec":
        state = engine.execs.get(text)
        return {"id": state.id, "container": state.container.id, "name": state.container.name}
    if kind == "network":
        record = engine.networks.resolve(text)
        return {"id": record.id, "name": record.name}
    if kind == "image":
        return {"id": engine.images.resolve(text).id, "name": clean(text)}
    return {"name": clean(text)}


def clean(text: str) -> str:
    """Shorten the text and make it valid UTF-8, because input of a client may be long or invalid."""
    return text[:1024].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
