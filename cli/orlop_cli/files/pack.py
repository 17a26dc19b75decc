"""Packs a local file or directory as a tar stream. The stream is made in pieces, and only one piece is in memory."""

from __future__ import annotations

import errno
import os
import stat
import tarfile
from typing import NamedTuple

from orlop_cli._errors import CliError

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


BLOCK = 1 << 20
_CAPABILITY = "security.capability"


class Selection(NamedTuple):
    """The entries of a tree that are packed. `keep` says whether an entry is packed, `enter` whether a directory is read.
    `owner` is the uid and gid of all entries; None keeps the owners of the files."""

    keep: Callable[[str], bool] = lambda _: True
    enter: Callable[[str], bool] = lambda _: True
    owner: int | None = None


ALL = Selection()


def pack(path: str, name: str, selection: Selection = ALL) -> Iterator[bytes]:
    """The tar stream of the tree at `path`. `name` is the name of its top entry; "" omits the directory itself. Owners are
    numeric, sockets are omitted, and files with several names become hard links. Raises CliError for unreadable files."""
    try:
        yield from _entry(path, name, {}, selection)
    except OSError as error:
        raise CliError(f"{error.filename or path}: {(error.strerror or str(error)).lower()}") from None
    yield bytes(2 * tarfile.BLOCKSIZE)


def _entry(path: str, name: str, seen: dict[tuple[int, int], str], selection: Selection) -> Iterator[bytes]:
    found = os.lstat(path)
    info = _info(path, name, found)
    if info is None:
        return
    if selection.owner is not None:
        info.uid = info.gid = selection.owner
    kept = not name or selection.keep(name)
    if info.type == tarfile.REGTYPE:
        if kept:
            yield from _file(path, info, seen)
        return
    if name and kept:
        yield _header(info)
    if info.type == tarfile.DIRTYPE and (not name or selection.enter(name)):
        for child in sorted(os.listdir(path)):
            yield from _entry(os.path.join(path, child), f"{name}/{child}" if name else child, seen, selection)


_KINDS = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
}


def _info(path: str, name: str, found: os.stat_result) -> tarfile.TarInfo | None:
    kind = _KINDS.get(stat.S_IFMT(found.st_mode))
    if kind is None:
        return None
    info = tarfile.TarInfo(name)
    info.type = kind
    info.mode = stat.S_IMODE(found.st_mode)
    info.uid, info.gid = found.st_uid, found.st_gid
    info.mtime = found.st_mtime_ns // 10**9  # Docker's clients send whole seconds
    if kind == tarfile.SYMTYPE:
        info.linkname = os.readlink(path)
    elif kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
        info.devmajor, info.devminor = os.major(found.st_rdev), os.minor(found.st_rdev)
    return info


def _header(info: tarfile.TarInfo) -> bytes:
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _file(path: str, info: tarfile.TarInfo, seen: dict[tuple[int, int], str]) -> Iterator[bytes]:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise CliError(f"{path}: is no longer a regular file")
        key = (found.st_dev, found.st_ino)
        if found.st_nlink > 1 and key in seen:
            info.type, info.linkname = tarfile.LNKTYPE, seen[key]
            yield _header(info)
            return
        seen[key] = info.name
        info.size = found.st_size
        if capability := _capability(fd):
            info.pax_headers = {f"SCHILY.xattr.{_CAPABILITY}": capability.decode("utf-8", "surrogateescape")}
        yield _header(info)
        left = info.size
        while left:
            piece = os.read(fd, min(left, BLOCK))
            if not piece:
                raise CliError(f"{path}: became shorter while it was copied")
            left -= len(piece)
            yield piece
        if rest := info.size % tarfile.BLOCKSIZE:
            yield bytes(tarfile.BLOCKSIZE - rest)
    finally:
        os.close(fd)


def _capability(fd: int) -> bytes:
    """The file's capabilities. Docker copies no other extended attribute."""
    try:
        return os.getxattr(fd, _CAPABILITY)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return b""
        raise
