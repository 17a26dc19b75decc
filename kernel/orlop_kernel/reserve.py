"""A preallocated file. When the disk is full, the file is shrunk, to make room for operations that free space.

Only the store's thread uses the file. `release` shrinks it by a step; `refill` grows it again once there is enough free
space. The file has no content; after a crash, a file that is too short grows later.
"""

from __future__ import annotations

import logging
import os

__all__ = ["SIZE", "Reserve"]

SIZE = 2 << 20
_STEP = 256 << 10  # bytes; a deletion needs a few pages of 4 KiB, and other writers may use some of the freed space
_AMPLE = 2 * SIZE  # bytes that must remain free after a refill, because the reserve itself must not fill the disk

_log = logging.getLogger("orlop.store")


class Reserve:
    """The preallocated file. `whole` is true if it has its full size."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.whole = False

    def release(self) -> bool:
        """Free one step. Returns false when the file is empty."""
        try:
            fd = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            size = os.fstat(fd).st_size
            if not size:
                return False
            os.ftruncate(fd, max(0, size - _STEP))
        except OSError:
            return False
        finally:
            os.close(fd)
        if self.whole:
            _log.error("the disk of %s is full: deletions now use reserved space", os.path.dirname(self.path))
        self.whole = False
        return True

    def refill(self) -> None:
        """Grow the file to its full size if there is space. Costs one statvfs, or nothing if the file has its full size."""
        if self.whole:
            return
        try:
            # Creating the file before the check is safe: an empty file takes only a directory entry and an inode
            fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return
        try:
            space = os.fstatvfs(fd)
            missing = SIZE - os.fstat(fd).st_size
            if missing <= 0 or space.f_bavail * space.f_frsize >= missing + _AMPLE:
                os.posix_fallocate(fd, 0, SIZE)
                self.whole = True
        except OSError as error:
            _log.debug("cannot reserve disk space in %s: %s", os.path.dirname(self.path), error.strerror)
        finally:
            os.close(fd)
