"""Events of `GET /events`."""

from __future__ import annotations

import msgspec

from orlop_api_docker.responses import encode
from orlop_kernel.events import Event

__all__ = ["encode_event"]


class _Actor(msgspec.Struct, frozen=True):
    ID: str
    Attributes: dict[str, str]


class _Message(msgspec.Struct, frozen=True):
    """The event as sent to clients of API 1.52 and later."""

    Type: str
    Action: str
    Actor: _Actor
    scope: str
    time: int
    time_nano: int = msgspec.field(name="timeNano")


class _LegacyMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """The event as sent to older clients, with `status`, `id` and `from` for containers and images."""

    status: str = ""
    id: str = ""
    from_: str = msgspec.field(default="", name="from")
    Type: str = ""
    Action: str = ""
    Actor: _Actor | None = None
    scope: str = ""
    time: int = 0
    time_nano: int = msgspec.field(default=0, name="timeNano")


def encode_event(event: Event, *, legacy: bool) -> bytes:
    """The JSON object, without a line end. `legacy`: for API versions before 1.52."""
    actor = _Actor(event.actor_id, event.attributes)
    seconds = event.time_ns // 1_000_000_000
    if not legacy or event.type not in ("container", "image"):
        return encode(_Message(event.type, event.action, actor, event.scope, seconds, event.time_ns))
    return encode(
        _LegacyMessage(
            status=event.action,
            id=event.actor_id,
            from_=event.attributes.get("image", "") if event.type == "container" else "",
            Type=event.type,
            Action=event.action,
            Actor=actor,
            scope=event.scope,
            time=seconds,
            time_nano=event.time_ns,
        )
    )
