"""The actions of a file operation, on the roots of mounted snapshots. All functions block."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from orlop_build_dockerfile.contracts import BuildFailed
from orlop_build_dockerfile.pb import ops_pb2

from .archives import is_archive
from .copying import Copier, Options, remove_tree
from .helping import StartHelper
from .modes import mode_function
from .paths import (
    Attributes,
    clean,
    lookup,
    make_directories,
    open_directory,
    opened,
    parent_of,
    set_attributes,
    split,
)
from .patterns import glob_match, has_wildcard

__all__ = ["Unpack", "copy", "copy_options", "matches", "mkdir", "mkfile", "rm", "symlink"]

Unpack = Callable[[int, int], None]
"""Unpacks an archive into a directory. The arguments are the file descriptors of the two."""


def attributes_of(owner: tuple[int, int] | None, timestamp: int) -> Attributes:
    """The attributes for new entries. `timestamp` is in ns. -1 means no timestamp, and so does 0, which old clients send."""
    return Attributes(owner, timestamp if timestamp > 0 else None)


def _keep_suffix(path: str) -> str:
    """Clean a path, but keep "/" or "/." at its end, because it changes the meaning of a destination."""
    cleaned = clean(path)
    if path.endswith("/.") and cleaned != "/":
        return cleaned + "/."
    return cleaned + "/" if path.endswith("/") and cleaned != "/" else cleaned


def matches(root: int, path: str, *, follow: bool, wildcard: bool) -> list[str]:
    """The paths of a source: the source itself, or the paths that match its wildcards, sorted. The list is empty if no path
    exists."""
    path = clean(path)
    if not wildcard or not has_wildcard(path):
        return [path] if lookup(root, path, follow=follow) is not None else []
    found = [""]
    parts = path.strip("/").split("/")
    for number, part in enumerate(parts):
        found = _expand(root, found, part, last=number == len(parts) - 1, follow=follow)
    return sorted(found)


def _expand(root: int, above: list[str], part: str, *, last: bool, follow: bool) -> list[str]:
    found = []
    for directory in above:
        if not has_wildcard(part):
            if not last or lookup(root, f"{directory}/{part}", follow=follow) is not None:
                found.append(f"{directory}/{part}")
            continue
        try:
            with opened(open_directory(root, directory)) as fd:
                names = os.listdir(fd)
        except (FileNotFoundError, NotADirectoryError):
            continue
        found += [f"{directory}/{name}" for name in names if glob_match(part, name)]
    return found


def copy_options(action: ops_pb2.FileActionCopy, owner: tuple[int, int] | None) -> Options:
    """The options of a copy. Raises `BuildFailed` for an invalid mode."""
    mode: Callable[[int], int] | None = None
    if action.modeStr:
        try:
            mode = mode_function(action.modeStr)
        except ValueError as error:
            raise BuildFailed(str(error)) from None
    elif action.mode >= 0:
        fixed = action.mode & 0o7777
        mode = lambda _: fixed  # noqa: E731
    return Options(
        attributes=attributes_of(owner, action.timestamp),
        mode=mode,
        contents=action.dirCopyContents,
        follow=action.followSymlink,
        replace=action.alwaysReplaceExistingDestPaths,
        include=tuple(action.include_patterns),
        exclude=tuple(action.exclude_patterns),
    )


def copy(
    target: int,
    source: int,
    action: ops_pb2.FileActionCopy,
    owner: tuple[int, int] | None,
    unpack: Unpack,
    start_helper: StartHelper | None = None,
) -> None:
    """Execute a copy action. Raises `BuildFailed` and `OSError`."""
    destination = _keep_suffix(action.dest)
    if not action.createDestPath:
        above = split(destination)[0]
        if lookup(target, above, follow=True) is None:
            raise BuildFailed(f"failed to stat {action.dest}: no such file or directory")
    found = matches(source, action.src, follow=action.followSymlink, wildcard=action.allowWildcard)
    if not found:
        if action.allowWildcard and action.allowEmptyWildcard and has_wildcard(action.src):
            return
        raise BuildFailed(f"{action.src} not found")
    options = copy_options(action, owner)
    for path in found:
        if action.attemptUnpackDockerCompatibility and _unpacked(target, source, path, destination, options, unpack):
            continue
        Copier(source, target, options, start_helper).copy(path, destination)


def _unpacked(target: int, source: int, path: str, destination: str, options: Options, unpack: Unpack) -> bool:
    info = lookup(source, path, follow=True)
    if info is None or not stat.S_ISREG(info.st_mode):
        return False
    with opened(_open_file(source, path)) as archive:
        if not is_archive(archive):
            return False
        with opened(_make(target, destination, 0o755, options.attributes)) as directory:
            unpack(archive, directory)
    return True


def _make(root: int, path: str, mode: int, attributes: Attributes) -> int:
    try:
        return make_directories(root, path, mode, attributes)
    except NotADirectoryError as error:
        raise BuildFailed(f"mkdir {clean(path)}: not a directory") from error


def _open_file(root: int, path: str) -> int:
    from orlop_sdk import linux

    return linux.open_in_root(root, clean(path), os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)


def mkdir(target: int, action: ops_pb2.FileActionMkDir, owner: tuple[int, int] | None) -> None:
    attributes, mode = attributes_of(owner, action.timestamp), action.mode & 0o7777
    if action.makeParents:
        os.close(_make(target, action.path, mode, attributes))
        return
    parent, name = parent_of(target, action.path)
    with opened(parent):
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            return
        with opened(os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)) as made:
            set_attributes(made, Attributes(owner))
            os.fchmod(made, mode)
            set_attributes(made, Attributes(None, attributes.time_ns))


def mkfile(target: int, action: ops_pb2.FileActionMkFile, owner: tuple[int, int] | None) -> None:
    from orlop_sdk import linux

    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK
    with opened(linux.open_in_root(target, clean(action.path), flags, 0o600)) as made:
        view = memoryview(action.data)
        while view:
            view = view[os.write(made, view) :]
        set_attributes(made, Attributes(owner))
        os.fchmod(made, action.mode & 0o7777)
        set_attributes(made, Attributes(None, attributes_of(None, action.timestamp).time_ns))


def symlink(target: int, action: ops_pb2.FileActionSymlink, owner: tuple[int, int] | None) -> None:
    parent, name = parent_of(target, action.newpath)
    with opened(parent):
        os.symlink(action.oldpath, name, dir_fd=parent)
        if owner is not None:
            os.chown(name, *owner, dir_fd=parent, follow_symlinks=False)
        if action.timestamp > 0:
            os.utime(name, ns=(action.timestamp, action.timestamp), dir_fd=parent, follow_symlinks=False)


def rm(target: int, action: ops_pb2.FileActionRm) -> None:
    found = [clean(action.path)]
    if action.allowWildcard:
        found = matches(target, action.path, follow=False, wildcard=True)
    elif not action.allowNotFound and lookup(target, action.path, follow=False) is None:
        raise BuildFailed(f"{action.path}: not found")
    for path in found:
        if path == "/":
            raise BuildFailed("rmPath: invalid empty path")
        try:
            parent, name = parent_of(target, path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        with opened(parent):
            remove_tree(parent, name)
