"""Ports of this machine for tests to publish and to listen at."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket

__all__ = ["free_port"]

_numbers = itertools.count(20_000 + os.getpid() % 50 * 200)


def free_port() -> int:
    """Of TCP and UDP, at every address. Below those that are handed out: others on this machine take them and give them back
    all the time."""
    for port in _numbers:
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp, contextlib.suppress(OSError):
            tcp.bind(("", port))
            udp.bind(("", port))
            return port
    raise AssertionError("no free port")
