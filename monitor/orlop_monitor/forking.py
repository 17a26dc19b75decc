"""The protocol between the daemon and its zygote: msgpack messages over a SOCK_SEQPACKET pair, one message per packet.

`Fork` is sent with one descriptor (SCM_RIGHTS), the child's connection. Every `Fork` is answered, in order. When the daemon
has closed its socket, the zygote accepts no more requests, and exits when its last child has ended.
"""

from __future__ import annotations

import msgspec

__all__ = ["ENTRIES", "MESSAGE_LIMIT", "Fork", "Forked"]

MESSAGE_LIMIT = 64 << 10
ENTRIES = ("monitor", "unpack")


class Fork(msgspec.Struct, frozen=True):
    """Fork a child that runs `entry`. `run_dir` is a monitor's run directory: if the monitor dies without having written an
    exit record there, the zygote writes the record. The answer has the `serial` of its request, so that a late answer is not
    mistaken for the answer to the next request."""

    serial: int
    entry: str
    run_dir: str = ""


class Forked(msgspec.Struct, frozen=True):
    """The answer: the child's `pid`, or 0 and the `error`."""

    serial: int
    pid: int
    error: str = ""
