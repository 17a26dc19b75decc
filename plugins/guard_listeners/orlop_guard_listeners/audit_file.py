"""The file of the audit log. Lines are appended, and the file is rotated by size. This module does not use trio, because
`audit` calls it on a thread.

Only root can read the file (mode 0600). A batch of lines is written completely or not at all: if a full disk causes a
partial write, the file is truncated. Rotation renames files; `audit.log.1` is the newest rotated file. A crash during the
rotation skips a number but loses no line. If the file is moved away, a new file is created.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from itertools import pairwise

__all__ = ["MODE", "AuditFile", "file_names"]

MODE = 0o600


def file_names(path: str, max_files: int) -> tuple[str, ...]:
    """The log and its rotated files, the newest first."""
    return (path, *(f"{path}.{number}" for number in range(1, max_files)))


class AuditFile:
    """The audit log's file and its rotated files. This class is not thread-safe. All methods raise OSError. After an error,
    the next `append` opens the file again."""

    def __init__(self, path: str, max_bytes: int, max_files: int) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._fd = -1
        self._size = 0

    def open(self) -> None:
        """Create the file and its directory if they are missing."""
        if not os.path.lexists(directory := os.path.dirname(self.path)):
            os.makedirs(directory, 0o700)
        # O_NONBLOCK, because opening a named pipe must not block the daemon
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(self.path, flags, MODE)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "not a regular file", self.path)
            if (status.st_uid, stat.S_IMODE(status.st_mode)) != (os.geteuid(), MODE):
                os.fchown(fd, os.geteuid(), -1)
                os.fchmod(fd, MODE)
        except BaseException:
            os.close(fd)
            raise
        self._fd, self._size = fd, status.st_size

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def append(self, lines: bytes) -> None:
        """Append complete lines. If the file becomes too large by this, rotate the files first."""
        if self._fd >= 0 and not self._is_ours():
            self.close()
        if self._fd < 0:
            self.open()
        if self._size and self._size + len(lines) > self._max_bytes:
            self._rotate()
        try:
            left = memoryview(lines)
            while left:
                left = left[os.write(self._fd, left) :]
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._fd, self._size)
            self.close()
            raise
        self._size += len(lines)

    def _is_ours(self) -> bool:
        try:
            named, held = os.stat(self.path, follow_symlinks=False), os.fstat(self._fd)
        except FileNotFoundError:
            return False
        self._size = held.st_size
        return (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino)

    def _rotate(self) -> None:
        self.close()
        if self._max_files == 1:
            os.unlink(self.path)
        names = file_names(self.path, self._max_files)
        for newer, older in reversed(list(pairwise(names))):
            with suppress(FileNotFoundError):
                os.rename(newer, older)
        self.open()
