"""The engine's ID: a UUID stored in the data root."""

from __future__ import annotations

import logging
import os
import re
from contextlib import suppress
from functools import lru_cache

__all__ = ["daemon_id"]

_log = logging.getLogger("orlop.system")
_UUID = re.compile(r"[0-9A-Za-z:-]{16,64}")


@lru_cache(maxsize=8)
def daemon_id(data_root: str) -> str:
    """The content of `<data-root>/engine-id`, created on first use. A damaged file is replaced."""
    path = os.path.join(data_root, "engine-id")
    try:
        with open(path) as file:
            found = file.read().strip()
        if _UUID.fullmatch(found):
            return found
    except (OSError, UnicodeDecodeError):
        pass
    with open("/proc/sys/kernel/random/uuid") as file:
        made = file.read().strip()
    try:
        _keep(path, made)
    except OSError as error:
        # Only a warning, because `info` must also work on a full disk. The next daemon tries again to save an ID.
        _log.warning("cannot store the engine's id in %s: %s", path, error.strerror)
    return made


def _keep(path: str, identity: str) -> None:
    temporary = f"{path}.{os.getpid()}"
    try:
        with open(temporary, "w") as file:
            file.write(identity)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except OSError:
        with suppress(OSError):
            os.unlink(temporary)
        raise
