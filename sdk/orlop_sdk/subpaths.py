"""Resolves `volume-subpath` and `image-subpath`: a path inside a volume or an image.

Containers that share the volume may have put symlinks anywhere in it. The path is therefore resolved beneath the volume's
directory. A path that leads out of this directory is refused with dockerd's messages (moby volume/safepath).
"""

from __future__ import annotations

import errno
import os

from orlop_sdk.linux import open_beneath

__all__ = ["is_local", "open_subpath"]


def is_local(subpath: str) -> bool:
    """Whether a path stays inside the volume. Only the text of the path is checked, not the file system, as in Go's
    `filepath.IsLocal`. In contrast to Go, "" is allowed, and means the whole volume."""
    return not os.path.isabs(subpath) and os.path.normpath(subpath).split("/")[0] != ".."


def open_subpath(base: str, subpath: str, flags: int = os.O_PATH) -> int:
    """Open a path inside `base` and return its descriptor. "" means `base` itself. Raises `OSError`, whose `strerror` is
    dockerd's message. `errno` is EXDEV if the path leads out of `base`."""
    if not subpath:
        return os.open(base, flags | os.O_CLOEXEC)
    top = os.open(base, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return open_beneath(top, os.path.normpath(subpath), flags)
    except OSError as error:
        raise OSError(error.errno, _words(base, subpath, error)) from None
    finally:
        os.close(top)


def _words(base: str, subpath: str, error: OSError) -> str:
    path = os.path.join(base, os.path.normpath(subpath))
    cause = os.strerror(error.errno or 0).lower()
    if error.errno == errno.EXDEV:
        return f"path concatenation escapes the base directory, base: {base}, subpath: {subpath}"
    if error.errno == errno.ENOENT:
        return f"cannot access path {path}: lstat {path}: {cause}"
    return f'error while resolving symlinks in combined path "{path}": {cause}'
