"""The pid file, for people and init scripts. The daemon locks its data root by flock, not by the pid file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from orlop_kernel.config import ConfigError

__all__ = ["held"]


def _read(path: str) -> int:
    try:
        with open(path, "rb") as file:
            return int(file.read(32))
    except (OSError, ValueError):
        return 0


def _is_daemon(pid: int) -> bool:
    """Whether the process with this pid is an orlopd. After a reboot, any process may have the pid."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return b"orlop" in file.read()
    except OSError:
        return False


@contextmanager
def held(path: str) -> Iterator[None]:
    """Write the pid of this process, and remove the file on exit. Raises `ConfigError` when another daemon runs."""
    other = _read(path)
    if other and other != os.getpid() and _is_daemon(other):
        raise ConfigError(f"ensure orlopd is not running or delete {path}: process with PID {other} is still running")
    temporary = f"{path}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(path) or ".", mode=0o711, exist_ok=True)
        with open(temporary, "w") as file:
            file.write(f"{os.getpid()}\n")
        os.rename(temporary, path)
    except OSError as error:
        raise ConfigError(f"cannot write pid file {path}: {error.strerror}") from error
    try:
        yield
    finally:
        if _read(path) == os.getpid():
            os.unlink(path)
