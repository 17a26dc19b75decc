"""A part of a volume or of an image, by a path inside of it: `volume-subpath`, `image-subpath`.

Containers that have the same volume may have put links anywhere in it, so the path is resolved beneath the volume's
directory, and what leads out of that is refused, in the words of dockerd (volume/safepath).
"""

from __future__ import annotations

import errno
import os

from orlop_sdk.linux import open_beneath

__all__ = ["is_local", "open_subpath"]


def is_local(subpath: str) -> bool:
    """Whether it stays inside by its words alone: Go's `filepath.IsLocal`, but "" is the whole."""
    return not os.path.isabs(subpath) and os.path.normpath(subpath).split("/")[0] != ".."


def open_subpath(base: str, subpath: str, flags: int = os.O_PATH) -> int:
    """The descriptor of a path inside of `base`; of `base` itself when it is "". `OSError` with EXDEV when it leads out, and
    with what is wrong otherwise; `strerror` is dockerd's sentence."""
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
