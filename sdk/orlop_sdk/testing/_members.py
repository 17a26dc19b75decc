"""Writes a layer directly into a snapshot, with the same result as the unpack worker. (Whiteouts are described in the OCI
image spec, layer.md.)"""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path

from orlop_sdk.storage import StreamTarget, UnpackTarget, Usage

__all__ = ["stream_members", "unpack_members"]

_MTIME = 1_000_000_000
_PREFIX, _OPAQUE = ".wh.", ".wh..wh..opq"


def unpack_members(target: UnpackTarget, *members: tuple[str, bytes | None]) -> None:
    """Write files into a snapshot. Each of `members` is (name, content); a content of None makes a directory. `.wh.NAME`
    hides NAME in the layers below."""
    for name, content in members:
        path = Path(target.directory, name)
        if path.name == _OPAQUE:
            _hide_all(path.parent, overlay=target.overlay_whiteouts)
        elif path.name.startswith(_PREFIX):
            _hide(path.with_name(path.name.removeprefix(_PREFIX)), overlay=target.overlay_whiteouts)
        else:
            _write(path, content)


def stream_members(target: StreamTarget, *members: tuple[str, bytes | None]) -> Usage:
    """Run the target's program, without a sandbox, to make a layer from `members` (see `unpack_members`). Returns the
    layer's usage."""
    data = _normalized(members)
    if target.keep:
        Path(target.directory, target.keep).write_bytes(data)
    done = subprocess.run(target.argv, cwd=target.directory, input=data, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, f"{target.argv} failed: {done.stderr.decode(errors='replace')}"
    counted = {name for name, _ in members if not name.endswith(_OPAQUE)}
    counted |= {str(above) for name in counted for above in Path(name).parents if above != Path()}
    return Usage(sum(len(content or b"") for name, content in members if _PREFIX not in name), len(counted))


def _normalized(members: tuple[tuple[str, bytes | None], ...]) -> bytes:
    """The tar that `LayerStream` describes."""
    written: set[str] = set()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:

        def add(name: str, content: bytes | None) -> None:
            for above in reversed(Path(name).parents):
                if str(above) not in written and above != Path(name):
                    add_one(str(above), None)
            add_one(name, content)

        def add_one(name: str, content: bytes | None) -> None:
            written.add(name)
            info = tarfile.TarInfo("./" if name == "." else name)
            info.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            info.mode, info.mtime, info.size = 0o755 if content is None else 0o644, _MTIME, len(content or b"")
            tar.addfile(info, io.BytesIO(content or b""))

        for name, content in sorted(members, key=lambda member: _PREFIX in member[0]):
            add(name, content)
        if not members:
            add_one(".", None)
    return out.getvalue()


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
