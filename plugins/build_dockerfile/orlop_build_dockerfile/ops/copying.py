"""Copies files and trees from one root into another root for COPY (the rules are the same as in BuildKit's fsutil/copy).

All paths are relative to file descriptors, so that no link leads out of its tree. All functions block.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator

import msgspec

from orlop_build_dockerfile.contracts import BuildFailed
from orlop_sdk import filecopies
from orlop_sdk.filecopies import copy_file, finish_copy

from .cancelling import checkpoint
from .helping import Helped, StartHelper
from .paths import (
    Attributes,
    clean,
    lookup,
    make_directories,
    open_directory,
    opened,
    parent_of,
    resolve_last,
    split,
    stat_in,
)
from .patterns import Matcher

__all__ = ["Copier", "Options"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_DEPTH = 400  # each level needs two file descriptors


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """`mode` computes the new permissions from a file's `st_mode`. With `contents`, the entries of a source directory are
    copied instead of the directory. With `replace`, existing entries of any type are removed."""

    attributes: Attributes = Attributes()
    mode: Callable[[int], int] | None = None
    contents: bool = False
    follow: bool = False
    replace: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


class _Pending:
    """A directory of the target. It is created when its first entry is copied, because the patterns may exclude all entries
    of the source directory. `fd` is -1 until the directory is made."""

    def __init__(self, above: _Pending | None, name: str, place: str) -> None:
        self.above, self.name, self.place = above, name, place
        self.fd = -1


class Copier:
    """Copies from the directory `source` into the directory `target`. Hard links between files of one copy are kept.
    `start_helper` is used if there are many files."""

    def __init__(self, source: int, target: int, options: Options, start_helper: StartHelper | None = None) -> None:
        self._source, self._target, self._options = source, target, options
        self._start_helper = start_helper
        self._helped: Helped | None = None
        self._attributes = filecopies.Attributes(options.attributes.owner, options.attributes.time_ns)
        self._include = Matcher(options.include) if options.include else None
        self._exclude = Matcher(options.exclude) if options.exclude else None
        self._owner, self._time = options.attributes.owner, options.attributes.time_ns
        self._self = (os.geteuid(), os.getegid())
        self._links: dict[tuple[int, int], tuple[int, str]] = {}
        self._base, self._above = -1, "/"

    def copy(self, path: str, destination: str) -> None:
        """Copy `path` of the source to `destination`. If the destination ends with "/" or is a directory, the source is
        copied into the destination, and keeps its name. Missing directories above the destination are made."""
        attributes = self._options.attributes
        info = stat_in(self._source, path, follow=self._options.follow)
        directory = stat.S_ISDIR(info.st_mode)
        if destination.endswith(("/", "/.")):
            os.close(make_directories(self._target, destination, attributes=attributes))
        there = lookup(self._target, destination, follow=True)
        is_directory = there is not None and stat.S_ISDIR(there.st_mode)
        destination = clean(destination)
        if (not self._options.contents and directory and there is not None) or (not directory and is_directory):
            destination = os.path.join(destination, split(path)[1])
        destination = resolve_last(self._target, destination)
        if directory and self._options.contents and there is None:
            os.close(make_directories(self._target, destination, attributes=attributes))
        self._above, name = split(destination)
        with opened(make_directories(self._target, self._above, attributes=attributes)) as base:
            self._base = base
            self._links.clear()
            if directory:
                with opened(self._open_source(path)) as source, self._helping():
                    self._top(source, base, name)
            else:
                parent, leaf = self._locate(path)
                with opened(parent):
                    self._entry(parent, leaf, base, name, info, name)

    @contextlib.contextmanager
    def _helping(self) -> Iterator[None]:
        if self._start_helper is None:
            yield
            return
        with Helped(self._start_helper, self._attributes, self._copy_again, self._end_directory) as helped:
            self._helped = helped
            try:
                yield
                helped.wait()
            finally:
                self._helped = None

    def _locate(self, path: str) -> tuple[int, str]:
        """The directory and the name of a source that is not a directory; links are followed if the options say so."""
        for _ in range(40):
            parent, name = parent_of(self._source, path)
            try:
                if not self._options.follow or not stat.S_ISLNK(os.lstat(name, dir_fd=parent).st_mode):
                    return parent, name
                target = os.readlink(name, dir_fd=parent)
            except BaseException:
                os.close(parent)
                raise
            os.close(parent)
            path = target if target.startswith("/") else f"{split(path)[0]}/{target}"
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)

    def _open_source(self, path: str) -> int:
        if self._options.follow:
            return open_directory(self._source, path)
        parent, name = parent_of(self._source, path)
        with opened(parent):
            return os.open(name, _DIRECTORY, dir_fd=parent)

    def _top(self, source: int, base: int, name: str) -> None:
        """Copy a directory. If the target directory exists, it keeps its owner and mode, and gets the time of the source."""
        info = os.fstat(source)
        if not name:
            with opened(os.open(".", _DIRECTORY, dir_fd=base)) as fd:
                self._fill(source, fd, None, "", "", 0)
                self._finish(source, fd, info, made=False)
            return
        made = True
        try:
            os.mkdir(name, 0o700, dir_fd=base)
        except FileExistsError:
            made = False
            if not stat.S_ISDIR(os.lstat(name, dir_fd=base).st_mode):
                self._replace_file(base, name, name)
                made = True
        with opened(os.open(name, _DIRECTORY, dir_fd=base)) as fd:
            self._fill(source, fd, None, "", name, 0)
            self._finish(source, fd, info, made=made)

    def _replace_file(self, parent: int, name: str, place: str) -> None:
        """Replace an existing entry by a directory."""
        if not self._options.replace:
            raise BuildFailed(f"cannot copy to non-directory: {self._shown(place)}")
        os.unlink(name, dir_fd=parent)
        os.mkdir(name, 0o700, dir_fd=parent)

    def _shown(self, place: str) -> str:
        return os.path.join(self._above, place.lstrip("/"))

    def _set_times(self, fd: int, info: os.stat_result) -> None:
        times = (info.st_atime_ns, info.st_mtime_ns) if self._time is None else (self._time, self._time)
        os.utime(fd, ns=times)

    def _fill(self, source: int, target: int, pending: _Pending | None, path: str, place: str, depth: int) -> None:
        """Copy the entries of a directory. `path` is relative to the copied directory, for patterns; `place` is relative to
        the base, for hard links. `pending` is set if the target is not made yet; in this case `target` is -1."""
        if depth > _MAX_DEPTH:
            raise BuildFailed(f"cannot copy {path[:200]}: directories are nested deeper than {_MAX_DEPTH}")
        with os.scandir(source) as entries:
            found = sorted(((entry.name, entry) for entry in entries), key=lambda each: each[0])
        helped = self._helped
        for name, entry in found:
            checkpoint()
            info = entry.stat(follow_symlinks=False)
            inner = f"{path}/{name}" if path else name
            included = self._included(inner)
            if stat.S_ISDIR(info.st_mode):
                if included or self._entered(inner):
                    if helped is not None and target >= 0:
                        helped.flush(source, target, place)
                    self._directory(source, target, pending, name, info, inner, f"{place}/{name}", included, depth)
            elif included:
                if pending is not None:
                    target = self._make(pending)
                if helped is not None and helped.takes(info):
                    helped.add(source, target, name, self._permissions(info.st_mode), place)
                else:
                    self._entry(source, name, target, name, info, f"{place}/{name}")
        if helped is not None and target >= 0:
            helped.flush(source, target, place)

    def _included(self, path: str) -> bool:
        if self._include is not None and not self._include.match(path):
            return False
        return self._exclude is None or not self._exclude.match(path)

    def _entered(self, path: str) -> bool:
        """Whether a directory that is not included may contain included entries."""
        return True

    def _directory(
        self,
        source: int,
        target: int,
        pending: _Pending | None,
        name: str,
        info: os.stat_result,
        path: str,
        place: str,
        included: bool,
        depth: int,
    ) -> None:
        with opened(os.open(name, _DIRECTORY, dir_fd=source)) as inner:
            step = _Pending(pending, name, place)
            if pending is None:
                step.above = _Pending(None, "", "")
                step.above.fd = target
            try:
                if included:
                    self._make(step)
                self._fill(inner, step.fd, None if step.fd >= 0 else step, path, place, depth + 1)
                if step.fd >= 0:
                    self._finish(inner, step.fd, info, made=True)
            finally:
                if step.fd >= 0:
                    os.close(step.fd)

    def _make(self, step: _Pending) -> int:
        """Make a pending directory, and the directories above it. Returns its file descriptor."""
        if step.fd >= 0:
            return step.fd
        assert step.above is not None
        above = self._make(step.above)
        try:
            os.mkdir(step.name, 0o700, dir_fd=above)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(step.name, dir_fd=above).st_mode):
                self._replace_file(above, step.name, step.place)
        step.fd = os.open(step.name, _DIRECTORY, dir_fd=above)
        return step.fd

    def _entry(self, source: int, name: str, target: int, new: str, info: os.stat_result, place: str) -> None:
        """Copy an entry that is not a directory, and replace an existing entry."""
        if info.st_nlink > 1:
            if self._link(info, target, new, place):
                return
            self._links[info.st_dev, info.st_ino] = (self._base, place)
        if stat.S_ISREG(info.st_mode):
            self._file(source, name, target, new, place)
            return
        self._clear(target, new, place)
        if stat.S_ISLNK(info.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), new, dir_fd=target)
        else:
            os.mknod(new, info.st_mode, info.st_rdev, dir_fd=target)
        owner = self._owner or (info.st_uid, info.st_gid)
        if owner != self._self:
            os.chown(new, *owner, dir_fd=target, follow_symlinks=False)
        if not stat.S_ISLNK(info.st_mode):
            os.chmod(new, self._permissions(info.st_mode), dir_fd=target)
        times = (info.st_atime_ns, info.st_mtime_ns) if self._time is None else (self._time, self._time)
        os.utime(new, ns=times, dir_fd=target, follow_symlinks=False)

    def _link(self, info: os.stat_result, target: int, new: str, place: str) -> bool:
        known = self._links.get((info.st_dev, info.st_ino))
        if known is None:
            return False
        self._clear(target, new, place)
        try:
            os.link(known[1].lstrip("/"), new, src_dir_fd=known[0], dst_dir_fd=target, follow_symlinks=False)
        except OSError as error:
            if error.errno in (errno.EMLINK, errno.ENAMETOOLONG):
                return False
            raise
        return True

    def _clear(self, target: int, name: str, place: str) -> None:
        try:
            os.unlink(name, dir_fd=target)
        except FileNotFoundError:
            pass
        except IsADirectoryError:
            if not self._options.replace:
                raise BuildFailed(f"cannot replace to directory {self._shown(place)} with file") from None
            remove_tree(target, name)

    def _file(self, source: int, name: str, target: int, new: str, place: str) -> None:
        try:
            copy_file(source, name, target, new, self._permissions, self._attributes)
        except FileExistsError:
            self._clear(target, new, place)
            copy_file(source, name, target, new, self._permissions, self._attributes)

    def _copy_again(self, source: int, target: int, name: str, place: str) -> None:
        """Copy a regular file that the helper has not copied."""
        self._file(source, name, target, name, f"{place}/{name}")

    def _permissions(self, mode: int) -> int:
        return stat.S_IMODE(mode) if self._options.mode is None else self._options.mode(mode)

    def _finish(self, source: int, target: int, info: os.stat_result, *, made: bool) -> None:
        """Finish a directory when all its entries exist."""
        if self._helped is None or not self._helped.finish_later(target, info, made):
            self._end_directory(source, target, info, made)

    def _end_directory(self, source: int, target: int, info: os.stat_result, made: bool) -> None:
        if made:
            finish_copy(source, target, info, self._permissions(info.st_mode), self._attributes)
        else:
            self._set_times(target, info)


def remove_tree(parent: int, name: str) -> None:
    """Remove a file or a tree without following links. It is no error if the path does not exist. `name` must be one
    component, because an absolute path, or a path with "..", leads out of the root."""
    if "/" in name or name in ("", ".", ".."):
        raise ValueError(f"{name!r} is not the name of an entry")
    try:
        os.unlink(name, dir_fd=parent)
        return
    except FileNotFoundError:
        return
    except IsADirectoryError:
        pass
    stack: list[tuple[int, str, int, list[str]]] = []
    fd = os.open(name, _DIRECTORY, dir_fd=parent)
    stack.append((parent, name, fd, os.listdir(fd)))
    try:
        while stack:
            above, name, fd, names = stack[-1]
            if not names:
                stack.pop()
                os.close(fd)
                os.rmdir(name, dir_fd=above)
                continue
            child = names.pop()
            try:
                os.unlink(child, dir_fd=fd)
            except IsADirectoryError:
                if len(stack) > _MAX_DEPTH:
                    raise OSError(errno.ENAMETOOLONG, "directories are nested too deep", child) from None
                inner = os.open(child, _DIRECTORY, dir_fd=fd)
                stack.append((fd, child, inner, os.listdir(inner)))
    finally:
        for _, _, fd, _ in stack:
            os.close(fd)
