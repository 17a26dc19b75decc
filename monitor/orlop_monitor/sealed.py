"""Copies of runtime programs in sealed memfds, so that a runtime need not copy itself at each start.

runc and crun do not run from a file that a container could overwrite (CVE-2019-5736): at each start they copy the whole
program, ten megabytes, into a sealed memfd, unless they already run from such a memfd. The zygote makes this copy once.
Monitors inherit the copy and execute it instead of the file, as long as the file is unchanged.
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

# Runtimes check for exactly these seals.
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
            # The file is a script. Its interpreter could not open it, because the descriptor is closed at exec.
            raise OSError(errno.ENOEXEC, os.strerror(errno.ENOEXEC), path)
        info = os.fstat(source)
        left = info.st_size
        while left and (count := os.sendfile(memory, source, None, left)):
            left -= count
        os.fchmod(memory, 0o555)
        with suppress(OSError):
            linux.use_huge_pages(memory)  # called before sealing, because a sealed memfd cannot be mapped before Linux 6.7
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS)
        # Reopen read-only: a file that is open for writing cannot be executed (ETXTBSY).
        return _Copy(os.open(f"/proc/self/fd/{memory}", os.O_RDONLY | os.O_CLOEXEC), _identity(info))
    finally:
        os.close(memory)
        os.close(source)


def hold(paths: Iterable[str]) -> None:
    """Copy these programs. A script, or a program that cannot be read, is not copied; monitors then execute the original
    file."""
    for path in paths:
        try:
            _copies[path] = _copy(path)
        except OSError:
            continue


def descriptors() -> list[int]:
    """The descriptors of all copies, which a forked child must keep open."""
    return [copy.fd for copy in _copies.values()]


def executable(path: str) -> str:
    """The path to execute for a program. This is the path of its copy. If there is no copy, or if the file was replaced
    after it was copied, this is the path of the file."""
    copy = _copies.get(path)
    try:
        if copy is not None and copy.identity == _identity(os.stat(path)):
            return f"/proc/self/fd/{copy.fd}"
    except OSError:
        pass  # the file was removed; the exec will report this
    return path
