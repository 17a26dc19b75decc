"""What the daemon and its zygote say to each other, over a SOCK_SEQPACKET pair: one message a packet, msgpack.

`Fork` carries one fd (SCM_RIGHTS): the child's connection. Every `Fork` is answered, in order. The daemon's end is closed by
its death: the zygote takes no more then, and ends with its last child.
"""

from __future__ import annotations

import msgspec

__all__ = ["ENTRIES", "MESSAGE_LIMIT", "Fork", "Forked"]

MESSAGE_LIMIT = 64 << 10
ENTRIES = ("monitor", "unpack")


class Fork(msgspec.Struct, frozen=True):
    """Fork a child that runs `entry`. `run_dir` of a monitor: where its records are, should it end without the last one.
    `serial` comes back in the answer: the answer to a request that was given up is not taken for the next one's."""

    serial: int
    entry: str
    run_dir: str = ""


class Forked(msgspec.Struct, frozen=True):
    """`pid`, or 0 and the reason."""

    serial: int
    pid: int
    error: str = ""
