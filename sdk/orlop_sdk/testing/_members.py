"""Writes a layer directly into a snapshot, with the same result as the unpacker (whiteouts: OCI image spec, layer.md)."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from orlop_sdk.storage import UnpackTarget

__all__ = ["unpack_members"]

_MTIME = 1_000_000_000
_PREFIX, _OPAQUE = ".wh.", ".wh..wh..opq"


def unpack_members(target: UnpackTarget, *members: tuple[str, bytes | None]) -> None:
    """Write (name, content) into a snapshot; content None makes a directory. `.wh.NAME` hides NAME of the layers below."""
    for name, content in members:
        path = Path(target.directory, name)
        if path.name == _OPAQUE:
            _hide_all(path.parent, overlay=target.overlay_whiteouts)
        elif path.name.startswith(_PREFIX):
            _hide(path.with_name(path.name.removeprefix(_PREFIX)), overlay=target.overlay_whiteouts)
        else:
            _write(path, content)


def _write(path: Path, content: bytes | None) -> None:
    if content is None:
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o755)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o644)
    os.utime(path, (_MTIME, _MTIME))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _hide(path: Path, *, overlay: bool) -> None:
    _remove(path)
    if overlay:
        os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))  # the kernel's Documentation/filesystems/overlayfs.rst


def _hide_all(directory: Path, *, overlay: bool) -> None:
    for entry in directory.iterdir():
        _remove(entry)
    if overlay:
        os.setxattr(directory, "trusted.overlay.opaque", b"y")
