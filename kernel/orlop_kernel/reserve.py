"""Space on a full disk for what makes room: a file that holds some of the file system for the day when nobody else has any.

Owned by the store's thread. `give` lets go of a step of it, `take_back` makes it whole again once there is space for
everybody. The file has no content, and what survives a crash is its size: a file that is short is filled up later.
"""

from __future__ import annotations

import logging
import os

__all__ = ["SIZE", "Reserve"]

SIZE = 2 << 20
_STEP = 256 << 10  # a deletion takes a few pages of 4 KiB; whoever fills the disk takes the rest of the step
_AMPLE = 2 * SIZE  # must be free besides, or we would be the ones who fill the disk

_log = logging.getLogger("orlop.store")


class Reserve:
    """`whole` is whether nothing of it has been given up."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.whole = False

    def give(self) -> bool:
        """Free some space now, and say whether there was any left to give."""
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
            _log.error(
                "the disk of %s is full: what it takes to delete comes out of the reserve", os.path.dirname(self.path)
            )
        self.whole = False
        return True

    def take_back(self) -> None:
        """Make it whole if there is space. Costs a look at the file system, nothing when it is whole."""
        if self.whole:
            return
        try:
            # A directory entry and an inode are all that an empty file takes: made before it is known to fit
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
            _log.debug("no reserve is held in %s: %s", os.path.dirname(self.path), error.strerror)
        finally:
            os.close(fd)
