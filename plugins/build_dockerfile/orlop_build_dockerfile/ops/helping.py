"""The share of a large copy that a helper process does (`orlop_sdk.filecopies`).

The helper gets small regular files without other hard links. A directory gets its attributes when all its files exist. If
the helper still works on files of the directory at this time, the attributes are set later. Until then, duplicates of the
directory's descriptors stay open.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from typing import Protocol

from orlop_sdk.filecopies import Attributes, Batch, Helper

__all__ = ["Helped", "StartHelper"]

StartHelper = Callable[[], socket.socket]
"""Starts a helper, and returns this side's end of the connection."""

_ALONE = 1000  # files that are copied before a helper is started
_BATCH, _FEWEST = 64, 8  # the highest and the lowest number of files in a batch
_SMALL = 64 << 10  # bytes


class Again(Protocol):
    def __call__(self, source: int, target: int, name: str, place: str) -> None: ...


class End(Protocol):
    def __call__(self, source: int, target: int, info: os.stat_result, made: bool) -> None: ...


class _Directory:
    """A directory with files that the helper copies. `batches` is the number of batches without an answer. `end` is set
    when the copy has left the directory."""

    def __init__(self, source: int, target: int, place: str) -> None:
        self.source, self.target, self.place = source, target, place
        self.batches = 0
        self.end: tuple[os.stat_result, bool] | None = None

    def leave(self, info: os.stat_result, made: bool) -> None:
        self.end = (info, made)
        self.source, self.target = os.dup(self.source), os.dup(self.target)

    def close(self) -> None:
        os.close(self.source)
        os.close(self.target)


class Helped:
    """Use it in a `with` block; when the block ends, the helper works on no file any more. `again` copies a file that the
    helper has not copied. `end` sets the attributes of a directory."""

    def __init__(self, start: StartHelper, attributes: Attributes, again: Again, end: End) -> None:
        self._helper: Helper[_Directory] = Helper(start)
        self._attributes, self._again, self._end = attributes, again, end
        self._alone = _ALONE
        self._files: list[tuple[str, int]] = []
        self._directories: dict[int, _Directory] = {}
        """The directories in which the copy works at present, by the descriptor of the target directory."""
        self._unfinished: set[_Directory] = set()

    def __enter__(self) -> Helped:
        return self

    def __exit__(self, *_: object) -> None:
        self._helper.close()
        for directory in self._unfinished:
            directory.close()

    def takes(self, info: os.stat_result) -> bool:
        """Whether the helper may copy a file. Returns false for the first `_ALONE` files."""
        if self._alone:
            self._alone -= 1
            return False
        return stat.S_ISREG(info.st_mode) and info.st_nlink == 1 and info.st_size <= _SMALL

    def add(self, source: int, target: int, name: str, mode: int, place: str) -> None:
        """Add a file of a directory. Call `flush` before files of another directory are added."""
        self._files.append((name, mode))
        if len(self._files) == _BATCH:
            self.flush(source, target, place)

    def flush(self, source: int, target: int, place: str) -> None:
        """Let the helper copy the added files, or copy them here if the helper is busy."""
        files, self._files = self._files, []
        if not files:
            return
        while taken := self._helper.take():
            self._answered(*taken)
        if len(files) >= _FEWEST:
            directory = self._directories.setdefault(target, _Directory(source, target, place))
            if self._helper.give(source, target, Batch(files, self._attributes), directory):
                directory.batches += 1
                return
        for name, _ in files:
            self._again(source, target, name, place)

    def finish_later(self, target: int, info: os.stat_result, made: bool) -> bool:
        """Call this method when the copy leaves a directory. Returns false if the directory can get its attributes now."""
        directory = self._directories.pop(target, None)
        if directory is None:
            return False
        if not directory.batches:
            return False
        directory.leave(info, made)
        self._unfinished.add(directory)
        return True

    def wait(self) -> None:
        """Wait until all files are copied."""
        while taken := self._helper.take(wait=True):
            self._answered(*taken)

    def _answered(self, directory: _Directory, failed: list[str]) -> None:
        for name in failed:
            self._again(directory.source, directory.target, name, directory.place)
        directory.batches -= 1
        if directory.end is not None and not directory.batches:
            self._end(directory.source, directory.target, *directory.end)
            self._unfinished.remove(directory)
            directory.close()
