"""Free ports of this machine, for tests that publish or listen."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket

__all__ = ["free_port"]

_numbers = itertools.count(20_000 + os.getpid() % 50 * 200)


def free_port() -> int:
    """A port that is free for TCP and UDP at every address. The port is below the ephemeral ports, which other processes of
    this machine may use at any time."""
    for port in _numbers:
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp, contextlib.suppress(OSError):
            tcp.bind(("", port))
            udp.bind(("", port))
            return port
    raise AssertionError("no free port")
