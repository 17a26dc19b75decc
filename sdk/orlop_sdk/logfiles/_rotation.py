"""The file that a monitor appends to: rotation, repair after a crash, and behaviour on a full disk.

Owns the descriptor of the current file. The file always ends with a complete record: if only a part of a record fits on a
full disk, this part is removed again.
"""

from __future__ import annotations

import logging
import os

from orlop_sdk.errors import DriverError

from ._compression import Compression
from ._format import RecordFormat
from ._names import numbered, rotated
from ._options import FileOptions
from ._time import rfc3339

__all__ = ["RotatingFile"]

_MODE = 0o640
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
# seconds that `close` waits for a compression; after that it cancels the compression, which the next open repeats
_CLOSE_WAIT = 0.25

log = logging.getLogger("orlop.log")


def _open(path: str, extra: int = 0) -> int:
    fd = os.open(path, _FLAGS | extra, _MODE)
    os.fchmod(fd, _MODE)  # set the mode despite the umask, because log shippers read the file as members of its group
    return fd


def _inode(path: str) -> int:
    try:
        return os.stat(path, follow_symlinks=False).st_ino
    except FileNotFoundError:
        return -1


class RotatingFile:
    """Appends complete records to `path`. `dropped` counts the entries lost to a full disk. Raises `DriverError` when the
    file cannot be opened."""

    def __init__(self, path: str, options: FileOptions, records: RecordFormat) -> None:
        self.dropped = 0
        self._path = path
        self._options = options
        self._records = records
        self._last_ns = 0
        self._compression: Compression | None = None
        self._torn = False
        try:
            self._fd = _open(path)
            self._size = self._repair()
        except OSError as error:
            raise DriverError(f"cannot open log {path}: {error.strerror}") from error
        if options.compress:
            self._compress()

    def _repair(self) -> int:
        size = os.fstat(self._fd).st_size
        sound = self._records.valid_size(self._fd, size)
        if sound < size:
            log.warning("cut %d damaged bytes from the end of %s", size - sound, self._path)
            os.ftruncate(self._fd, sound)
        return sound

    def append(self, data: bytes, last_ns: int) -> None:
        """Append the complete records in `data`. `last_ns` is the time of the last record. As in dockerd, the size is
        checked before each record, so a file may exceed `max_size` by a part of its last record; each new file begins with
        the same record as in dockerd. Never raises: records that do not fit on the disk are dropped."""
        limit = self._options.max_size
        while data and self._fd >= 0:
            piece = data
            if limit is not None and self._size + len(data) > limit:
                if self._size >= limit and not self._rotate(limit):
                    self.dropped += self._records.count(data)
                    return
                if self._size + len(data) > limit:
                    piece = data[: self._records.next_end(data, limit - self._size)]
            self._write(piece)
            self._last_ns = max(self._last_ns, last_ns)
            data = data[len(piece) :]

    def _write(self, piece: bytes) -> None:
        if self._torn and not self._cut(self._size):
            self.dropped += self._records.count(piece)
            return
        done = 0
        try:
            while done < len(piece):
                done += os.write(self._fd, piece[done:] if done else piece)
        except OSError:
            whole = self._records.complete_length(piece[:done])
            self.dropped += self._records.count(piece[whole:])
            if whole < done:
                self._cut(self._size + whole)
            done = whole
        self._size += done

    def _cut(self, size: int) -> bool:
        """Remove the written part of a record that did not fit. Readers are not disturbed, because they stop at the last
        complete record."""
        try:
            os.ftruncate(self._fd, size)
            self._torn = False
        except OSError:
            self._torn = True
        return not self._torn

    def _rotate(self, limit: int) -> bool:
        """Continue in a new file. Returns false when the new file cannot be created."""
        try:
            status = os.fstat(self._fd)
            if status.st_size < limit:  # a user emptied the file (`truncate -s 0`): keep using it
                self._size = status.st_size
                return True
            if self._compression:
                self._compression.wait()
            # The inodes differ if the last rotation failed after the renames, or if a user removed or renamed the file.
            if _inode(self._path) == status.st_ino:
                self._shift()
        except OSError as error:
            # Truncate and reuse the file, as dockerd does: the size limit has priority over keeping old records.
            log.warning("cannot rotate %s: %s", self._path, error.strerror)
        return self._renew()

    def _shift(self) -> None:
        """Rename PATH.N to PATH.N+1 (plain or compressed) and PATH to PATH.1. Files beyond `max_files` are deleted."""
        files = numbered(self._path)
        for number in sorted(files, reverse=True):
            name = files[number]
            if number >= self._options.max_files - 1:
                os.unlink(name)
            else:
                os.rename(name, rotated(self._path, number + 1, packed=name.endswith(".gz")))
        if self._options.max_files > 1:
            os.rename(self._path, rotated(self._path, 1))
        else:
            os.unlink(self._path)

    def _renew(self) -> bool:
        try:
            old, fd = os.fstat(self._fd).st_ino, _open(self._path)
        except OSError:
            return False
        if os.fstat(fd).st_ino == old:
            os.ftruncate(fd, 0)
        os.close(self._fd)
        self._fd, self._size, self._torn = fd, os.fstat(fd).st_size, False
        if self._options.compress:
            self._compress()
        return True

    def _compress(self) -> None:
        """Compress PATH.1 if it is plain. Called after a rotation, and at open, because a crash or a cancelled compression
        leaves PATH.1 plain."""
        name = rotated(self._path, 1)
        if numbered(self._path).get(1) == name:
            self._compression = Compression(name, rfc3339(self._last_ns) if self._last_ns else "")

    def close(self) -> None:
        """Close the file; may be called twice. A running compression is cancelled after 0.25 s, so that it does not delay
        the container's exit."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        if self._compression:
            self._compression.wait(_CLOSE_WAIT)
            self._compression = None
