"""A Dockerfile with its context, and the arguments of `docker build`."""

from __future__ import annotations

import io
import os
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["OLD", "SERVED", "TREE", "Case", "Entry", "context"]

OLD = 1_000_000_000  # the time of the files of contexts
Entry = str | bytes | tuple[Any, ...]


class Case:
    """`files` maps the names of the context's files to text, bytes, or ("mode", mode, text), ("link", target), ("dir",
    mode), ("tar", {name: text}, compression), ("hard", path), ("fifo",). In `text` and `options`, @HTTP@ is the address of a
    server, and @CONTEXT@ the context's directory. `text` is written to the file `dockerfile`. `lines`: also compare the
    lines of the Dockerfile that an error message shows."""

    def __init__(
        self,
        text: str,
        files: Mapping[str, Entry] | None = None,
        *options: str,
        fails: bool = False,
        dockerfile: str = "Dockerfile",
        lines: bool = True,
    ) -> None:
        self.lines = lines
        self.text, self.files, self.options, self.fails, self.dockerfile = text, files or {}, options, fails, dockerfile


def _tar(members: Mapping[str, str], compression: str = "") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=f"w:{compression}") as made:
        for name, text in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.uid, info.gid, info.mode = len(text), OLD + 7, 3, 4, 0o640
            made.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()


def context(directory: Path, case: Case, http: str = "") -> None:
    directory.mkdir(parents=True)
    for name, entry in case.files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(entry, str | bytes):
            path.write_bytes(entry.encode() if isinstance(entry, str) else entry)
            path.chmod(0o644)
            continue
        kind, *rest = entry
        if kind == "mode":
            path.write_text(rest[1])
            path.chmod(rest[0])
        elif kind == "link":
            path.symlink_to(rest[0])
        elif kind == "dir":
            path.mkdir(exist_ok=True)
            path.chmod(rest[0])
        elif kind == "tar":
            path.write_bytes(_tar(*rest))
        elif kind == "hard":
            path.hardlink_to(directory / rest[0])
        else:
            os.mkfifo(path)
    # A client names a context by the last component of its path, which is equal for all cases. Each case therefore has its
    # own file times; otherwise files of equal size would be treated as sent before
    when = OLD + zlib.crc32(os.fsencode(directory)) % 10**6
    for path in sorted(directory.rglob("*"), reverse=True):
        os.utime(path, (when, when), follow_symlinks=False)
    dockerfile = directory / case.dockerfile
    dockerfile.parent.mkdir(exist_ok=True)
    dockerfile.write_text(case.text.replace("@HTTP@", http))


SERVED = {"file.txt": b"served\n", "a.tar": _tar({"x": "1", "d/y": "2"})}
"""The files that the server @HTTP@ serves."""

TREE: dict[str, Entry] = {
    "dir/a.txt": "a",
    "dir/sub/b.txt": ("mode", 0o600, "b"),
    "dir/sub/run.sh": ("mode", 0o4755, "#!/bin/sh\n"),
    "dir/link": ("link", "sub/b.txt"),
    "dir/out": ("link", "/etc/passwd"),
    "dir/empty": ("dir", 0o700),
    "top.md": "top",
    "two.txt": "two",
    "a b.txt": "space",
}
