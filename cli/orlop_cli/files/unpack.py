"""Extracts a tar stream into a local directory. The archive is not trusted, so no file is written outside that directory.

Each directory is opened from its parent without following links, and entries are created by name inside it, so that links
from the archive or from another process are not followed. As with `docker cp`, the files belong to the user. Modes, times
and extended attributes come from the archive.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tarfile

from orlop_cli._errors import CliError

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


BLOCK = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_XATTR = "SCHILY.xattr."


class _Reader:
    """The pieces as a file object for tarfile."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def read(self, size: int) -> bytes:
        found = [self._rest]
        have = len(self._rest)
        while have < size:
            piece = next(self._pieces, b"")
            if not piece:
                break
            found.append(piece)
            have += len(piece)
        data = b"".join(found)
        self._rest = data[size:]
        return data[:size]


def unpack(pieces: Iterable[bytes], directory: str, strip: str, name: str) -> None:
    """Extract the archive below `directory`. Its top entry `strip` gets the name `name`; "" means the directory itself.
    Raises CliError."""
    reader = _Reader(iter(pieces))
    try:
        with (
            tarfile.open(fileobj=reader, mode="r|", bufsize=BLOCK, errorlevel=2) as tar,  # type: ignore[call-overload]
            _Tree(directory) as tree,
        ):
            while (info := tar.next()) is not None:
                tree.add(tar, info, _parts(info.name, strip, name), strip, name)
                tar.members.clear()  # free the memory, because tarfile keeps every member
    except tarfile.TarError as error:
        raise CliError(f"the archive that the daemon sent is broken: {error}") from None
    except ConnectionError:
        raise  # the connection has failed, not the directory
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise CliError(f"cannot write to {directory}: {where}{(error.strerror or str(error)).lower()}") from None


def _parts(path: str, strip: str, name: str) -> list[str]:
    """The components of an entry's path below the directory. Raises CliError for a path that leads out of the directory."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise CliError(f"the archive has an entry outside of the requested path: {path!r}")
    if strip:
        if not parts or parts[0] != strip:
            raise CliError(f"the archive has an entry outside of the requested path: {path!r}")
        parts = parts[1:]
    return [name, *parts] if name else parts


class _Tree:
    """The directory. The directories of the last entry's path stay open, because entries of one directory usually follow
    each other."""

    def __init__(self, directory: str) -> None:
        self._path = os.path.normpath(directory)
        self._root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._open: list[tuple[str, int]] = []
        self._late: list[tuple[list[str], int, int]] = []
        """The modes and times of directories. They are applied at the end, because a mode may forbid adding entries."""

    def __enter__(self) -> _Tree:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                for parts, mode, mtime in reversed(self._late):
                    fd = self._enter(parts)
                    os.fchmod(fd, mode)
                    os.utime(fd, ns=(mtime, mtime))
        finally:
            self._leave(0)
            os.close(self._root)

    def _leave(self, depth: int) -> None:
        while len(self._open) > depth:
            os.close(self._open.pop()[1])

    def _enter(self, parts: list[str]) -> int:
        """Open a directory below the root. Missing directories are created."""
        depth = 0
        while depth < min(len(parts), len(self._open)) and self._open[depth][0] == parts[depth]:
            depth += 1
        self._leave(depth)
        fd = self._open[-1][1] if self._open else self._root
        for part in parts[depth:]:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=fd)
            fd = os.open(part, _DIRECTORY, dir_fd=fd)
            self._open.append((part, fd))
        return fd

    def add(self, tar: tarfile.TarFile, info: tarfile.TarInfo, parts: list[str], strip: str, name: str) -> None:
        mtime = int(info.mtime * 10**9)
        if not parts:
            return  # the entry is the directory itself, which already exists
        parent = self._enter(parts[:-1])
        self._make_room(parent, parts, info.isdir())
        leaf = parts[-1]
        if info.isdir():
            self._enter(parts)
            self._late.append((parts, info.mode & 0o7777, mtime))
            return
        if info.islnk():
            self._link(info, parts, _parts(info.linkname, strip, name))
            return
        if info.isreg():
            _write(tar, info, parent, leaf)
        elif info.issym():
            os.symlink(info.linkname, leaf, dir_fd=parent)
        elif info.isfifo():
            os.mkfifo(leaf, info.mode & 0o7777, dir_fd=parent)
        elif info.ischr() or info.isblk():
            kind = stat.S_IFCHR if info.ischr() else stat.S_IFBLK
            os.mknod(leaf, kind | info.mode & 0o7777, os.makedev(info.devmajor, info.devminor), dir_fd=parent)
        else:
            raise CliError(f"the archive has an entry of an unknown kind: {info.name!r}")
        if not info.isreg():
            os.utime(leaf, ns=(mtime, mtime), dir_fd=parent, follow_symlinks=False)

    def _make_room(self, parent: int, parts: list[str], is_dir: bool) -> None:
        """Remove an existing file. Raises CliError if only one of the existing and the new entry is a directory."""
        try:
            there = os.lstat(parts[-1], dir_fd=parent)
        except FileNotFoundError:
            return
        where = f'"{os.path.join(self._path, *parts)}"'
        if stat.S_ISDIR(there.st_mode):
            if not is_dir:
                raise CliError(f'cannot overwrite directory {where} with non-directory "{self._path}"')
            return
        if is_dir:
            raise CliError(f'cannot overwrite non-directory {where} with directory "{self._path}"')
        os.unlink(parts[-1], dir_fd=parent)

    def _link(self, info: tarfile.TarInfo, parts: list[str], target: list[str]) -> None:
        if not target:
            raise CliError(f"the archive has a hard link without a target: {info.name!r}")
        source = os.dup(self._enter(target[:-1]))
        try:
            os.link(target[-1], parts[-1], src_dir_fd=source, dst_dir_fd=self._enter(parts[:-1]), follow_symlinks=False)
        finally:
            os.close(source)


def _write(tar: tarfile.TarFile, info: tarfile.TarInfo, parent: int, leaf: str) -> None:
    fd = os.open(leaf, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent)
    with open(fd, "wb", buffering=0) as file:
        for offset, data in _contents(tar, info):
            file.seek(offset)
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]
        file.truncate(info.size)
        for key, value in info.pax_headers.items():
            if key.startswith(_XATTR):
                # This file system does not support the attribute, or setting it is not permitted
                with contextlib.suppress(OSError):
                    os.setxattr(fd, key.removeprefix(_XATTR), value.encode("utf-8", "surrogateescape"))
        os.fchmod(fd, info.mode & 0o7777)
        mtime = int(info.mtime * 10**9)
        os.utime(fd, ns=(mtime, mtime))


def _contents(tar: tarfile.TarFile, info: tarfile.TarInfo) -> Iterator[tuple[int, bytes]]:
    """Yields (offset, data) pairs, without the holes of a sparse file."""
    stream = tar.fileobj
    assert stream is not None
    stream.seek(info.offset_data)
    for start, size in getattr(info, "sparse", None) or [(0, info.size)]:
        done = 0
        while done < size:
            data = stream.read(min(BLOCK, size - done))
            if not data:
                raise tarfile.ReadError("unexpected end of data")
            yield start + done, data
            done += len(data)
