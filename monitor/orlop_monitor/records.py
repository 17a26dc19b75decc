"""The record files in a monitor's run directory. Each is written atomically, by rename.

The files are not synced to disk: the directory is on a tmpfs, and a power cut ends the containers, too.
"""

from __future__ import annotations

import os
from typing import TypeVar

import msgspec

from orlop_sdk import smallfiles

from .protocol import ExitRecord, InitRecord, MonitorRecord

__all__ = ["SOCKET", "clear", "read_exit", "read_init", "read_monitor", "socket_directory", "write"]

SOCKET = "sock"
_NAMES: dict[type, str] = {MonitorRecord: "monitor.json", InitRecord: "init.json", ExitRecord: "exit.json"}
_Record = TypeVar("_Record", MonitorRecord, InitRecord, ExitRecord)


def write(run_dir: str, record: MonitorRecord | InitRecord | ExitRecord) -> None:
    """Write a record to the file of its type."""
    final = os.path.join(run_dir, _NAMES[type(record)])
    temporary = f"{final}.{os.getpid()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, msgspec.json.encode(record))
    finally:
        os.close(fd)
    os.rename(temporary, final)


def _read(run_dir: str, kind: type[_Record]) -> _Record | None:
    try:
        return msgspec.json.decode(smallfiles.read(os.path.join(run_dir, _NAMES[kind])), type=kind)
    except (OSError, ValueError, RecursionError):
        return None  # an unreadable record is treated as missing


def read_monitor(run_dir: str) -> MonitorRecord | None:
    return _read(run_dir, MonitorRecord)


def read_init(run_dir: str) -> InitRecord | None:
    return _read(run_dir, InitRecord)


def read_exit(run_dir: str) -> ExitRecord | None:
    return _read(run_dir, ExitRecord)


def clear(run_dir: str) -> None:
    """Remove the records of an earlier run, so that its exit record is not mistaken for a record of the next run."""
    for name in (*_NAMES.values(), SOCKET):
        try:
            os.unlink(os.path.join(run_dir, name))
        except FileNotFoundError:
            pass


def socket_directory(run_dir: str) -> tuple[int, str]:
    """A descriptor of the run directory, which the caller must close, and a path of the socket below /proc/self/fd. The
    usual path may be too long, because a unix socket's address is limited to 107 bytes."""
    fd = os.open(run_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return fd, f"/proc/self/fd/{fd}/{SOCKET}"
