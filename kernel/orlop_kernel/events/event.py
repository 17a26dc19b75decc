"""One event, and its encodings for the store and the wire. Pure."""

from __future__ import annotations

import msgspec

__all__ = ["Event", "decode", "encode", "to_wire"]


class Event(msgspec.Struct, frozen=True, gc=False):
    """`time_ns` is Unix time and unique within one run of the daemon: it is the event's key."""

    type: str
    action: str
    actor_id: str
    attributes: dict[str, str]
    time_ns: int
    scope: str = "local"


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


_wire = msgspec.json.Encoder()
_stored = msgspec.msgpack.Encoder()
_from_store = msgspec.msgpack.Decoder(Event)


def encode(event: Event) -> bytes:
    """Encode for the store."""
    return _stored.encode(event)


def decode(data: bytes) -> Event:
    """Decode a row of the store. Raises `msgspec.MsgspecError`."""
    return _from_store.decode(data)


def to_wire(event: Event, *, legacy: bool) -> bytes:
    """The JSON object, without a line end. `legacy`: for API versions before 1.52."""
    actor = _Actor(event.actor_id, event.attributes)
    seconds = event.time_ns // 1_000_000_000
    if not legacy or event.type not in ("container", "image"):
        return _wire.encode(_Message(event.type, event.action, actor, event.scope, seconds, event.time_ns))
    return _wire.encode(
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
