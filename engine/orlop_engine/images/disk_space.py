"""Refuses a pull or load that cannot fit on the disk, before it fills the disk.

The check uses a lower bound of the needed space, so it never refuses an image that fits. Before a download, only the
compressed sizes are known, and the unpacked files are at least as large. Before a layer is unpacked, a better estimate is
possible, because gzip files contain the unpacked size (RFC 1952, ISIZE). A reserve of the disk stays free for containers,
logs and the database.
"""

from __future__ import annotations

import os

from orlop_sdk import DriverError

__all__ = ["DiskSpace", "least_unpacked"]

_RESERVE = 512_000_000
_RESERVE_PART = 50  # the reserve is at most a fiftieth of the disk


def _readable(size: int) -> str:
    """Format a size as `docker system df` does: decimal units, three digits."""
    value, units = float(size), iter(("B", "kB", "MB", "GB", "TB"))
    unit = next(units)
    while value >= 999.5 and unit != "TB":
        value, unit = value / 1000, next(units)
    return f"{value:.3g}{unit}"


def least_unpacked(fd: int, size: int) -> int:
    """A lower bound of a layer's unpacked size. `fd` is a descriptor of the layer's blob, `size` the blob's size in bytes.
    ISIZE is only the size of the last gzip member, modulo 4 GiB, so ISIZE can raise the bound, but not lower it."""
    # Imported here, because it loads decompressors, which the daemon's start does not need
    from orlop_monitor.unpack.stream import sniff

    if sniff(os.pread(fd, 8, 0)) != "gzip" or size < 18:
        return size
    return max(size, int.from_bytes(os.pread(fd, 4, size - 4), "little"))


class DiskSpace:
    """The file system of `path`. `check` makes a system call that may block: call it on a thread."""

    def __init__(self, path: str) -> None:
        self._path = path

    def check(self, doing: str, *, stored: int = 0, unpacked: int = 0) -> None:
        """Raise `DriverError` unless `stored` bytes of blobs and `unpacked` bytes of layers fit."""
        found = os.statvfs(self._path)
        free = found.f_bavail * found.f_frsize
        reserve = min(_RESERVE, found.f_blocks * found.f_frsize // _RESERVE_PART)
        if not stored + unpacked or stored + unpacked + reserve <= free:
            return
        parts = ", ".join(f"{_readable(size)} {what}" for size, what in ((stored, "stored"), (unpacked, "unpacked")) if size)
        raise DriverError(
            f"cannot {doing}: no space left on device: it needs at least {_readable(stored + unpacked)} ({parts}), and "
            f"{_readable(free)} are free in {self._path}, of which {_readable(reserve)} are kept in reserve; "
            '"orlop system prune" removes unused objects, "orlop system df" shows the used space'
        )
