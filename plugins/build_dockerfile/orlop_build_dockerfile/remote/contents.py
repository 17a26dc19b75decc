"""Digests of files in BuildKit's form (cache/contenthash): for directories that a client has sent. All functions block.

The digest of a file covers a header as in tarsum (without name and time) and the file's bytes. The digest of a directory
covers the names and digests of its entries. The root of a directory that was sent has an empty header.
"""

from __future__ import annotations

import hashlib
import os
import stat

from orlop_build_dockerfile.ops.cancelling import checkpoint
from orlop_build_dockerfile.ops.paths import clean, open_directory, opened
from orlop_sdk import linux

__all__ = ["content_digest"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_CHUNK = 1 << 20
_DEEPEST = 400


class _Unknown(Exception):
    """The digest depends on something that this module does not read."""


def content_digest(root: int, path: str, *, sent: bool) -> str | None:
    """The digest of a path below `root`. Symlinks are followed. None if the path does not exist, or if a file has an owner
    or extended attributes. `sent`: a client has sent the directory."""
    try:
        with opened(linux.open_in_root(root, clean(path), os.O_PATH)) as found:
            top, real = (os.readlink(f"/proc/self/fd/{fd}") for fd in (root, found))
            if real == top:
                with opened(os.open(".", _DIRECTORY, dir_fd=root)) as fd:
                    return _directory(fd, hashlib.sha256() if sent else _header(os.fstat(fd), "5"), 0)
        directory, name = os.path.split(real.removeprefix(top.rstrip("/")))
        with opened(open_directory(root, directory)) as parent:
            return _entry(parent, name, os.stat(name, dir_fd=parent, follow_symlinks=False), 0)
    except (OSError, ValueError, _Unknown):
        return None


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
        if any(not key.startswith(("security.", "system.", "trusted.overlay.")) for key in os.listxattr(fd)):
            raise _Unknown
        if stat.S_ISDIR(info.st_mode):
            return _directory(fd, _header(info, "5"), depth + 1)
        digest = _header(info, "0")
        while data := os.read(fd, _CHUNK):
            digest.update(data)
        return _text(digest)
    finally:
        os.close(fd)


def _directory(fd: int, header: hashlib._Hash, depth: int) -> str:
    if depth > _DEEPEST:
        raise _Unknown
    with os.scandir(fd) as entries:
        found = sorted((os.fsencode(entry.name), entry.stat(follow_symlinks=False)) for entry in entries)
    digest = hashlib.sha256(b"\0" + _text(header).encode())
    for name, info in found:
        digest.update(b"\0" + name + _entry(fd, os.fsdecode(name), info, depth).encode())
    return _text(digest)
