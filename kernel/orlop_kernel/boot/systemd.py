"""Implements sd_notify(3), sd_watchdog_enabled(3) and sd_listen_fds(3). The functions do nothing without systemd."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping

import trio

__all__ = ["feed_watchdog", "inherited_sockets", "notify", "notify_ready", "notify_reloading", "notify_stopping"]

_FIRST_FD = 3
_MARGIN = 15.0  # seconds for the steps of a shutdown after the containers have stopped and the connections are closed


def notify(state: str) -> None:
    """Send the state to the service manager; errors are ignored."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.connect(address)
            sock.send(state.encode())
    except OSError:
        pass


def notify_ready(status: str) -> None:
    notify(f"READY=1\nSTATUS={status}")


def notify_reloading() -> None:
    """Tell systemd that a reload begins. systemd compares the time in this message with the time of its reload request."""
    notify(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def notify_stopping(limit: float) -> None:
    """Tell systemd that the stop may take `limit` seconds: TimeoutStopSec does not include containers' stop timeouts."""
    seconds = min(limit + _MARGIN, 365 * 86400.0)  # `limit` is infinite if a container has no stop timeout
    notify(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={seconds * 1e6:.0f}")


async def feed_watchdog(environ: MutableMapping[str, str], pid: int) -> None:
    """While the event loop runs, send the watchdog's keep-alive twice per WatchdogSec."""
    for_whom, microseconds = (environ.pop(name, "") for name in ("WATCHDOG_PID", "WATCHDOG_USEC"))
    if for_whom not in ("", str(pid)) or not microseconds.isdigit() or int(microseconds) == 0:
        return
    while True:
        notify("WATCHDOG=1")
        await trio.sleep(int(microseconds) / 2e6)


def inherited_sockets(environ: MutableMapping[str, str], pid: int) -> dict[int, str]:
    """Maps the descriptors of the sockets that systemd opened to their names. Removes systemd's variables from `environ`, so
    that child processes do not use the sockets."""
    for_whom, count, names = (environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    if for_whom != str(pid) or not count.isdigit():
        return {}
    labels = names.split(":") if names else []
    fds = range(_FIRST_FD, _FIRST_FD + int(count))
    for fd in fds:
        os.set_inheritable(fd, False)
    return {fd: labels[index] if index < len(labels) else "" for index, fd in enumerate(fds)}
