"""Digests of files in BuildKit's form (cache/contenthash). All functions block.

The digest of a file covers a header as in tarsum, without name and time, and the bytes of the file. The digest of a
directory covers its header, and the names and digests of its entries. The root of a directory that a client has sent has an
empty header. The digest of a selection with wildcards or patterns covers the names of the selected files and directories,
the digests of the files, and the digests of the headers of the directories, in the order of the paths.
"""

from __future__ import annotations

import hashlib
import os
import stat

import msgspec

from orlop_build_dockerfile.ops.cancelling import checkpoint
from orlop_build_dockerfile.ops.paths import clean, lookup, open_directory, opened, parent_of
from orlop_build_dockerfile.ops.patterns import Matcher, glob_match
from orlop_sdk import linux

from .buildkit import Selector, has_wildcards

__all__ = ["content_digest"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_CHUNK = 1 << 20
_DEEPEST = 400


class _Unknown(Exception):
    """The digest depends on something that this module does not read."""


def content_digest(root: int, wanted: Selector, *, sent: bool) -> str | None:
    """The digest of a part of the tree below `root`. None if the path does not exist, for files with extended attributes or
    an owner other than root, and if a copy of the part reads a file that BuildKit's digest does not cover. `sent`: a client
    has sent the directory."""
    try:
        return (
            _of_path(root, wanted.path, follow=wanted.follow, sent=sent)
            if wanted.whole
            else _Selection(root, wanted, sent).digest()
        )
    except (OSError, ValueError, _Unknown):
        return None


def _of_path(root: int, path: str, *, follow: bool, sent: bool) -> str:
    if not follow:
        parent, name = parent_of(root, path)
        with opened(parent):
            if name != ".":
                return _entry(parent, name, os.stat(name, dir_fd=parent, follow_symlinks=False), 0)
    with opened(linux.open_in_root(root, clean(path), os.O_PATH)) as found:
        top, real = (os.readlink(f"/proc/self/fd/{fd}") for fd in (root, found))
        if real == top:
            with opened(os.open(".", _DIRECTORY, dir_fd=root)) as fd:
                return _directory(fd, hashlib.sha256() if sent else _header(os.fstat(fd), "5"), 0)
    directory, name = os.path.split(real.removeprefix(top.rstrip("/")))
    with opened(open_directory(root, directory)) as parent:
        return _entry(parent, name, os.stat(name, dir_fd=parent, follow_symlinks=False), 0)


class _Header(msgspec.Struct):
    """A directory above entries that are compared with the patterns. `include` and `exclude`: the patterns that match the
    directory, see `Matcher.match_below`. `written`: the digest of the selection covers the header."""

    path: str
    digest: str
    include: tuple[bool, ...] = ()
    exclude: tuple[bool, ...] = ()
    written: bool = False


class _Selection:
    """The files that are selected by a path with wildcards, and by patterns."""

    def __init__(self, root: int, wanted: Selector, sent: bool) -> None:
        if wanted.wildcard and "\\" in wanted.path:
            raise _Unknown  # BuildKit does not resolve the escapes of directories
        self._root, self._follow, self._sent = root, wanted.follow, sent
        self._path = clean(wanted.path)
        self._parts = self._path.split("/") if wanted.wildcard else []
        self._include = Matcher(wanted.include) if wanted.include else None
        self._exclude = Matcher(wanted.exclude) if wanted.exclude else None
        self._found: list[tuple[str, str]] = []

    def digest(self) -> str:
        self._select()
        if len(self._found) == 1 and os.path.basename(self._path) == self._found[0][0]:
            return self._found[0][1]
        listed = (os.fsencode(name) + digest.encode() for name, digest in self._found)
        return _text(hashlib.sha256(b"\0".join(listed)))

    def _select(self) -> None:
        if not self._parts and self._path != "/":
            if lookup(self._root, self._path, follow=False) is None:
                raise _Unknown  # the copy fails
            parent, name = parent_of(self._root, self._path)
            with opened(parent):
                self._add(parent, name, self._path, self._path, (), 0)
            return
        # `above` is the part of the path before the first component with a wildcard
        plain = next((number for number, part in enumerate(self._parts) if has_wildcards(part)), 1)
        above = "/".join(self._parts[:plain])
        try:
            fd = open_directory(self._root, above)
        except (FileNotFoundError, NotADirectoryError):
            return
        with opened(fd):
            self._entries(fd, above, "" if self._parts else above, (), 0)

    def _entries(self, fd: int, path: str, base: str, above: tuple[_Header, ...], depth: int) -> None:
        if depth > _DEEPEST:
            raise _Unknown
        with os.scandir(fd) as entries:
            names = sorted((entry.name for entry in entries), key=os.fsencode)
        for name in names:
            self._add(fd, name, f"{path}/{name}", base, above, depth)

    def _add(self, fd: int, name: str, path: str, base: str, above: tuple[_Header, ...], depth: int) -> None:
        """Add an entry, and those below it. The patterns are relative to `base`, the directory that the path selects; "" if
        the wildcards of the path have matched no directory above the entry."""
        checkpoint()
        info = os.stat(name, dir_fd=fd, follow_symlinks=False)
        is_directory = stat.S_ISDIR(info.st_mode)
        if self._parts and not base:
            count = path.count("/") + 1
            if not glob_match("/".join(self._parts[:count]), path):
                return
            if count < len(self._parts):
                if is_directory:
                    with opened(os.open(name, _DIRECTORY, dir_fd=fd)) as inner:
                        self._entries(inner, path, "", (), depth + 1)
                elif stat.S_ISLNK(info.st_mode):
                    raise _Unknown  # a copy follows the link, and BuildKit's digest does not
                return
            base = path
        header = _Header(path, "")
        included = self._matches(path.removeprefix(base).lstrip("/"), above, header)
        if not is_directory:
            if not included and path == base:
                raise _Unknown  # patterns do not apply to the source itself: it is copied, and the digest lacks it
            if included:
                self._write(above)
                self._found.append((name, self._of_file(fd, name, info, path)))
            return
        with opened(os.open(name, _DIRECTORY, dir_fd=fd)) as inner:
            _check_attributes(inner)
            header.digest = _text(_header(info, "5"))
            if included:
                self._write((*above, header))
            self._entries(inner, path, base, (*above, header), depth + 1)
        if path == base and not header.written:
            raise _Unknown  # the copy makes its destination, although the patterns select no file

    def _matches(self, path: str, above: tuple[_Header, ...], header: _Header) -> bool:
        if self._include is not None:
            matched, header.include = self._include.match_below(path, above[-1].include if above else ())
            if not matched:
                return False
        if self._exclude is not None:
            matched, header.exclude = self._exclude.match_below(path, above[-1].exclude if above else ())
            return not matched
        return True

    def _write(self, headers: tuple[_Header, ...]) -> None:
        for header in headers:
            if not header.written:
                header.written = True
                self._found.append((os.path.basename(header.path), header.digest))

    def _of_file(self, fd: int, name: str, info: os.stat_result, path: str) -> str:
        if self._follow and stat.S_ISLNK(info.st_mode):
            return _of_path(self._root, path, follow=True, sent=self._sent)
        return _entry(fd, name, info, 0)


def _text(digest: hashlib._Hash) -> str:
    return "sha256:" + digest.hexdigest()


def _header(info: os.stat_result, kind: str, link: bytes = b"") -> hashlib._Hash:
    if info.st_uid or info.st_gid:
        raise _Unknown
    mode = 0o777 if kind == "2" else stat.S_IMODE(info.st_mode)
    size = info.st_size if kind == "0" else 0
    text = f"namemode{mode}uid0gid0size{size}typeflag{kind}linkname".encode()
    return hashlib.sha256(text + link + b"unamegnamedevmajor0devminor0")


def _entry(parent: int, name: str, info: os.stat_result, depth: int) -> str:
    checkpoint()
    if stat.S_ISLNK(info.st_mode):
        return _text(_header(info, "2", os.fsencode(os.readlink(name, dir_fd=parent))))
    if stat.S_ISDIR(info.st_mode):
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
    elif stat.S_ISREG(info.st_mode):
        fd = os.open(name, _READ, dir_fd=parent)
    else:
        raise _Unknown
    try:
        _check_attributes(fd)
        if stat.S_ISDIR(info.st_mode):
            return _directory(fd, _header(info, "5"), depth + 1)
        digest = _header(info, "0")
        while data := os.read(fd, _CHUNK):
            digest.update(data)
        return _text(digest)
    finally:
        os.close(fd)


def _check_attributes(fd: int) -> None:
    """BuildKit's digest covers file capabilities and attributes of users, but no other attributes."""
    for key in os.listxattr(fd):
        if key == "security.capability" or not key.startswith(("security.", "system.", "trusted.overlay.")):
            raise _Unknown


def _directory(fd: int, header: hashlib._Hash, depth: int) -> str:
    if depth > _DEEPEST:
        raise _Unknown
    with os.scandir(fd) as entries:
        found = sorted((os.fsencode(entry.name), entry.stat(follow_symlinks=False)) for entry in entries)
    digest = hashlib.sha256(b"\0" + _text(header).encode())
    for name, info in found:
        digest.update(b"\0" + name + _entry(fd, os.fsdecode(name), info, depth).encode())
    return _text(digest)
