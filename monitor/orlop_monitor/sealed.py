"""Runtimes held in memory, sealed, so that they need not copy themselves at each start.

runc and crun never run from a file that a container could reach and overwrite (CVE-2019-5736): each start first copies the
whole program, ten megabytes, into a sealed memfd, unless it already runs from one. The zygote makes that copy once; monitors
inherit it, and execute it in place of the file while the file is still the one that was copied.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from orlop_sdk import linux

__all__ = ["descriptors", "executable", "hold"]

# Exactly these: the runtimes compare.
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE

_ELF = b"\x7fELF"


@dataclass(frozen=True, slots=True)
class _Copy:
    fd: int
    identity: tuple[int, int, int, int]


_copies: dict[str, _Copy] = {}


def _identity(info: os.stat_result) -> tuple[int, int, int, int]:
    return info.st_dev, info.st_ino, info.st_mtime_ns, info.st_size


def _copy(path: str) -> _Copy:
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    memory = os.memfd_create(os.path.basename(path), os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        if os.pread(source, len(_ELF), 0) != _ELF:
            # A script: its interpreter would be told a descriptor that is closed by then. What it runs seals itself.
            raise OSError(errno.ENOEXEC, os.strerror(errno.ENOEXEC), path)
        info = os.fstat(source)
        left = info.st_size
        while left and (count := os.sendfile(memory, source, None, left)):
            left -= count
        os.fchmod(memory, 0o555)
        with suppress(OSError):
            linux.use_huge_pages(memory)  # before Linux 6.7 nothing that is sealed can be mapped
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS)
        # What is open for writing cannot be executed (ETXTBSY).
        return _Copy(os.open(f"/proc/self/fd/{memory}", os.O_RDONLY | os.O_CLOEXEC), _identity(info))
    finally:
        os.close(memory)
        os.close(source)


def hold(paths: Iterable[str]) -> None:
    """Copy these programs. One that cannot be read, or is a script, is run from its file as ever."""
    for path in paths:
        try:
            _copies[path] = _copy(path)
        except OSError:
            continue


def descriptors() -> list[int]:
    """What a child must keep open."""
    return [copy.fd for copy in _copies.values()]


def executable(path: str) -> str:
    """What to execute for this program: the copy, unless there is none or the file has been replaced (an upgrade)."""
    copy = _copies.get(path)
    try:
        if copy is not None and copy.identity == _identity(os.stat(path)):
            return f"/proc/self/fd/{copy.fd}"
    except OSError:
        pass  # the file is gone: let the caller fail on it
    return path
