"""Reads and writes small files by system calls. If a forked process uses Python's file objects, it copies a hundred more
pages of memory."""

from __future__ import annotations

import os

__all__ = ["read", "read_tail", "write"]


def read(path: str) -> bytes:
    """The whole file. Raises `OSError`."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(fd, 16384)
        while more := os.read(fd, 65536) if data else b"":
            data += more
        return data
    finally:
        os.close(fd)


def write(path: str, data: bytes) -> None:
    """Write to an existing file in one system call, as the kernel's control files require. Raises `OSError`."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def read_tail(path: str, size: int = 256 << 10) -> str:
    """The last `size` bytes of a file as text, for a debug bundle. If the file cannot be read, the text is the reason."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if os.fstat(fd).st_size > size:
                os.lseek(fd, -size, os.SEEK_END)
            return os.read(fd, size).decode("utf-8", "replace")
        finally:
            os.close(fd)
    except OSError as error:
        return f"cannot be read: {error.strerror}\n"
