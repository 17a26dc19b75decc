"""Shows the content of a driver's mounts. The mounts are made in a process with its own mount namespace, so that no mount
remains.

`python -m orlop_sdk.testing._mounted` reads a JSON object with "mounts" and "operations". It makes the mounts, applies the
operations and prints the resulting tree. Without root, nothing can be mounted. `look` then accepts only a single bind mount,
and uses its source directory instead of the mount.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import msgspec
import trio

from orlop_sdk import Mount, linux

__all__ = ["ReadOnlyError", "apply", "look", "tree"]


class ReadOnlyError(Exception):
    """An operation failed with EROFS."""


def apply(root: str, operations: Sequence[Sequence[Any]]) -> None:
    """Apply operations: write PATH TEXT, mkdir PATH, remove PATH (recursively), chmod PATH MODE. Paths are relative to
    `root`."""
    for verb, path, *arguments in operations:
        full = os.path.join(root, path)
        if verb == "write":
            os.makedirs(os.path.dirname(full), exist_ok=True)
            with open(full, "w") as file:
                file.write(arguments[0])
        elif verb == "mkdir":
            os.mkdir(full)
        elif verb == "chmod":
            os.chmod(full, arguments[0])
        elif os.path.isdir(full) and not os.path.islink(full):
            shutil.rmtree(full)
        else:
            os.unlink(full)


def tree(root: str) -> dict[str, str | None]:
    """Maps every path below `root` to the text of the file, None for a directory, "-> target" for a symlink, or "<type>" for
    another type of file."""
    found: dict[str, str | None] = {}
    for directory, names, files in os.walk(root):
        for name in names + files:
            path = os.path.join(directory, name)
            mode = os.lstat(path).st_mode
            shown: str | None = f"<{stat.filemode(mode)[0]}>"
            if stat.S_ISREG(mode):
                with open(path) as file:
                    shown = file.read()
            elif stat.S_ISDIR(mode):
                shown = None
            elif stat.S_ISLNK(mode):
                shown = f"-> {os.readlink(path)}"
            found[os.path.relpath(path, root)] = shown
    return found


async def look(mounts: Sequence[Mount], *operations: Sequence[Any]) -> dict[str, str | None]:
    """Mount, apply the operations, and return the resulting `tree`. Raises `ReadOnlyError` when an operation fails with
    EROFS."""
    if os.geteuid():
        assert len(mounts) == 1 and mounts[0].type == "bind", "without root only a single bind mount can be looked at"
        if operations and "ro" in mounts[0].options:
            raise ReadOnlyError
        apply(mounts[0].source, operations)
        return tree(mounts[0].source)
    request = json.dumps({"mounts": msgspec.to_builtins(mounts), "operations": operations})
    result = await trio.run_process(
        [sys.executable, "-m", "orlop_sdk.testing._mounted"],
        stdin=request.encode(),
        capture_stdout=True,
        capture_stderr=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    if result.returncode == 30:
        raise ReadOnlyError
    if result.returncode:
        raise subprocess.SubprocessError(f"cannot mount {mounts}: {result.stderr.decode()[-2000:]}")
    found: dict[str, str | None] = json.loads(result.stdout)
    return found


def _main() -> int:
    request = json.loads(sys.stdin.read())
    linux.unshare(linux.CLONE_NEWNS)
    linux.mount("", "none", "/", ("rprivate",))
    base = tempfile.mkdtemp()
    try:
        linux.mount("tmpfs", "tmpfs", base)
        root = os.path.join(base, "root")
        os.mkdir(root)
        for mount in msgspec.convert(request["mounts"], list[Mount]):
            target = os.path.join(root, mount.target) if mount.target else root
            linux.mount(mount.type, mount.source, mount.mountpoint or target, mount.options)
        try:
            apply(root, request["operations"])
        except OSError as error:
            if error.errno == 30:
                return 30
            raise
        print(json.dumps(tree(root)))
        linux.umount(root)
        linux.umount(base)
        return 0
    finally:
        if os.path.ismount(base):
            linux.umount(base)
        os.rmdir(base)


if __name__ == "__main__":
    sys.exit(_main())
