"""Packs directories as a tar. All functions block."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Sequence

from orlop_build_dockerfile.ops.paths import opened

__all__ = ["pack_directories"]

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def pack_directories(roots: Sequence[tuple[int, str]], output: int, time: int | None = None) -> None:
    """Write all files below the directories to the file descriptor `output`. `roots` are directories, each with the path
    that it gets in the archive ("" for the top). With `time`, all files get this time. Stops without an error when the
    reader has closed the pipe."""
    try:
        with (
            open(output, "wb", buffering=1 << 20, closefd=False) as file,
            tarfile.open(mode="w|", fileobj=file, format=tarfile.PAX_FORMAT, bufsize=1 << 20) as archive,
        ):
            for root, below in roots:
                if below:
                    made = tarfile.TarInfo(below)
                    made.type, made.mode, made.mtime = tarfile.DIRTYPE, 0o755, time or 0
                    archive.addfile(made)
                _Packer(archive, time).add(root, f"{below}/" if below else "", {})
    except BrokenPipeError:
        pass


class _Packer:
    def __init__(self, archive: tarfile.TarFile, time: int | None) -> None:
        self._archive, self._time = archive, time

    def add(self, directory: int, path: str, links: dict[tuple[int, int], str]) -> None:
        archive = self._archive
        for name in sorted(os.listdir(directory), key=os.fsencode):
            info = os.stat(name, dir_fd=directory, follow_symlinks=False)
            entry = _entry(path + name, directory, name, info, links)
            if entry is None:
                continue
            if self._time is not None:
                entry.mtime = self._time
            if entry.isreg():
                with opened(os.open(name, _READ, dir_fd=directory)) as fd, open(fd, "rb", closefd=False) as content:
                    _attributes(entry, fd)
                    archive.addfile(entry, content)
                continue
            if not entry.isdir():
                archive.addfile(entry)
                continue
            with opened(os.open(name, _DIRECTORY, dir_fd=directory)) as inner:
                _attributes(entry, inner)
                archive.addfile(entry)
                self.add(inner, f"{path}{name}/", links)


def _entry(
    path: str, directory: int, name: str, info: os.stat_result, links: dict[tuple[int, int], str]
) -> tarfile.TarInfo | None:
    entry = tarfile.TarInfo(path)
    entry.mode, entry.uid, entry.gid = stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid
    entry.mtime = info.st_mtime_ns // 1_000_000_000
    if stat.S_ISDIR(info.st_mode):
        entry.type = tarfile.DIRTYPE
        return entry
    if info.st_nlink > 1:
        first = links.setdefault((info.st_dev, info.st_ino), path)
        if first != path:
            entry.type, entry.linkname = tarfile.LNKTYPE, first
            return entry
    if stat.S_ISREG(info.st_mode):
        entry.size = info.st_size
    elif stat.S_ISLNK(info.st_mode):
        entry.type, entry.linkname = tarfile.SYMTYPE, os.readlink(name, dir_fd=directory)
    elif stat.S_ISFIFO(info.st_mode):
        entry.type = tarfile.FIFOTYPE
    elif stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode):
        entry.type = tarfile.CHRTYPE if stat.S_ISCHR(info.st_mode) else tarfile.BLKTYPE
        entry.devmajor, entry.devminor = os.major(info.st_rdev), os.minor(info.st_rdev)
    else:
        return None  # a socket
    return entry


def _attributes(entry: tarfile.TarInfo, fd: int) -> None:
    try:
        keys = os.listxattr(fd)
    except OSError:
        return
    for key in keys:
        if not key.startswith(("trusted.overlay.", "system.")):
            value = os.getxattr(fd, key).decode("utf-8", "surrogateescape")
            entry.pax_headers = {**entry.pax_headers, f"SCHILY.xattr.{key}": value}
