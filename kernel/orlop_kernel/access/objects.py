"""What a call is about, as the audit log names it: the kind, and the ID and name that the engine knows it by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop_kernel.api.call import Call
from orlop_kernel.spi import OrlopError

if TYPE_CHECKING:
    from orlop_kernel.engine.engine import Engine

__all__ = ["clean", "describe"]

_KINDS = {"containers": "container", "exec": "exec", "images": "image", "networks": "network", "volumes": "volume"}


def describe(engine: Engine, call: Call) -> dict[str, str]:
    """{} when the call is about no single thing. What does not exist has the name that the client used."""
    kind = _KINDS.get(call.pattern[1:].partition("/")[0], "")
    text = call.params.get("id") or call.params.get("name") or ""
    if call.pattern == "/containers/create":
        text = call.arg("name")
    elif call.pattern == "/images/create":
        text = call.arg("fromImage") or call.arg("fromSrc")
    if not kind or not text:
        return {}
    try:
        return {"type": kind, **_known(engine, kind, text)}
    except OrlopError:
        return {"type": kind, "name": clean(text)}


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
    """What clients send need not be UTF-8, nor short; a line of the log is."""
    return text[:1024].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
