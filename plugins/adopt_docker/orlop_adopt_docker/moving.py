"""Moves the directories of an adoption into Orlop's data root (for good), and back into the Docker root. All functions
block.

Each directory is moved by rename(2). After a crash, some directories are moved and others are not. A move in either
direction can then be run again, and moves the remaining directories. The phase in the row tells a starting daemon which
direction it must complete.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from orlop_sdk import Conflict, mountinfo
from orlop_sdk.snapshots import fsync_directory

from .adopted import Adopted, Link

__all__ = ["check", "move_back", "move_here", "return_logs"]


def check(data_root: str, directories: Iterable[Link]) -> None:
    """Raise `Conflict` if a directory cannot be renamed into the data root."""
    device, mounts = os.stat(data_root).st_dev, {entry.path for entry in mountinfo.read()}
    for each in directories:
        if not os.path.lexists(each.source):
            continue  # dockerd has removed it
        if os.path.islink(each.source):
            raise Conflict(f"cannot adopt {each.source} with --for-good: it is a symbolic link")
        if os.stat(each.source).st_dev != device or each.source in mounts:
            raise Conflict(f"cannot adopt {each.source} with --for-good: it is on another file system than {data_root}")


def move_here(data_root: str, adopted: Adopted) -> None:
    """Replace each link by the directory that it points to."""
    for each in adopted.directories:
        target = os.path.join(data_root, each.target)
        if os.path.lexists(each.source) and (os.path.islink(target) or not os.path.lexists(target)):
            if os.path.islink(target):
                os.unlink(target)
            os.rename(each.source, target)
    _sync(data_root, adopted)


def move_back(data_root: str, adopted: Adopted) -> list[str]:
    """Move each directory that still exists back to the Docker root, and link it from Orlop's data root. Returns the
    original paths of directories that Orlop has removed. These directories are lost."""
    lost = []
    for each in adopted.directories:
        target = os.path.join(data_root, each.target)
        if os.path.isdir(target) and not os.path.islink(target):
            os.rename(target, each.source)
        elif not os.path.lexists(each.source):
            lost.append(each.source)
            continue
        if not os.path.lexists(target) and os.path.isdir(os.path.dirname(target)):
            os.symlink(each.source, target)
    _sync(data_root, adopted)
    return lost


def _sync(data_root: str, adopted: Adopted) -> None:
    parents = {
        os.path.dirname(path) for each in adopted.directories for path in (each.source, os.path.join(data_root, each.target))
    }
    for path in parents:
        if os.path.isdir(path):
            fsync_directory(path)


def return_logs(data_root: str, adopted: Adopted) -> None:
    """Replace Docker's log files by the present log files, because a rotation by Orlop has made new files. At any time, both
    daemons' paths of a log file are valid."""
    for each in adopted.logs:
        ours = os.path.join(data_root, each.target)
        if not os.path.isdir(ours) or not os.path.isdir(each.source):
            continue
        for name in sorted(os.listdir(ours)):
            if "-json.log" not in name or name.endswith(".tmp"):
                continue
            path, target = os.path.join(ours, name), os.path.join(each.source, name)
            if os.path.islink(path) or (os.path.exists(target) and os.path.samefile(path, target)):
                continue
            staged = f"{target}.orlop"
            if os.path.lexists(staged):
                os.unlink(staged)
            os.link(path, staged, follow_symlinks=False)
            os.rename(staged, target)
        fsync_directory(each.source)
