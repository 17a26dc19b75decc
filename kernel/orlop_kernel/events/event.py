"""One event, and its encoding for the store. Pure."""

from __future__ import annotations

import msgspec

__all__ = ["Event", "decode", "encode"]


class Event(msgspec.Struct, frozen=True, gc=False):
    """`time_ns` is Unix time and unique within one run of the daemon: it is the event's key."""

    type: str
    action: str
    actor_id: str
    attributes: dict[str, str]
    time_ns: int
    scope: str = "local"


_stored = msgspec.msgpack.Encoder()
_from_store = msgspec.msgpack.Decoder(Event)


def encode(event: Event) -> bytes:
    """Encode for the store."""
    return _stored.encode(event)


def decode(data: bytes) -> Event:
    """Decode a row of the store. Raises `msgspec.MsgspecError`."""
    return _from_store.decode(data)
