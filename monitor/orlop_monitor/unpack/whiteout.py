"""Applies whiteouts of a layer in one of two ways: it makes overlayfs whiteouts, or removes the hidden files."""

from __future__ import annotations

import os
import stat
from typing import Protocol

from .errors import UnpackError, shown
from .tree import Parent, Tree, is_whiteout, remove

__all__ = ["OPAQUE", "Whiteouts", "hidden_name", "whiteouts_for"]

OPAQUE = b".wh..wh..opq"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Whiteouts(Protocol):
    def apply(self, head: bytes, name: bytes) -> None:
        """Handle the `.wh.` entry `name` of directory `head`."""
        ...

    def added(self, path: bytes) -> None:
        """Called when this layer has created `path`."""
        ...

    def directory(self, path: bytes) -> Parent:
        """Open the directory `path` to create an entry in it."""
        ...

    def hide_below(self, parent: int, name: bytes) -> None:
        """Called when the new directory `name` has replaced a whiteout: lower layers must stay hidden below the
        directory."""
        ...


def hidden_name(head: bytes, name: bytes) -> bytes:
    """The name that is hidden by the whiteout file `name` in the directory `head`."""
    hidden = name[4:]
    if hidden in (b"", b".", b".."):
        raise UnpackError(f"{shown(head + b'/' + name)}: it is not a valid whiteout")
    return hidden


def _set_opaque(parent: int, name: bytes) -> None:
    fd = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        os.setxattr(fd, b"trusted.overlay.opaque", b"y")
    finally:
        os.close(fd)


class _Overlay:
    """Whiteouts for an upper directory of overlayfs. The directory was empty at first, so all its entries come from this
    layer."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    def apply(self, head: bytes, name: bytes) -> None:
        parent = self.directory(head)
        if name == OPAQUE:
            os.setxattr(parent.fd, b"trusted.overlay.opaque", b"y")
        elif not name.startswith(b".wh..wh."):
            hidden = hidden_name(head, name)
            try:
                os.mknod(hidden, stat.S_IFCHR, os.makedev(0, 0), dir_fd=parent.fd)
            except FileExistsError:
                # A file of this layer already hides the lower file with the same name. A directory would be merged with the
                # lower directory, so make it opaque.
                if stat.S_ISDIR(os.stat(hidden, dir_fd=parent.fd, follow_symlinks=False).st_mode):
                    _set_opaque(parent.fd, hidden)

    def added(self, path: bytes) -> None:
        pass

    def directory(self, path: bytes) -> Parent:
        try:
            return self._tree.directory(path)
        except NotADirectoryError:
            self._replace_whiteout(path)
            return self._tree.directory(path)

    def _replace_whiteout(self, path: bytes) -> None:
        """Replace the topmost whiteout among `path` and its parents by an opaque directory. Needed when a layer has a
        whiteout and later files below its name, but no entry for the directory."""
        parts = path.split(b"/")
        for index, name in enumerate(parts):
            parent = self._tree.directory(b"/".join(parts[:index]))
            if is_whiteout(os.stat(name, dir_fd=parent.fd, follow_symlinks=False)):
                os.unlink(name, dir_fd=parent.fd)
                os.mkdir(name, 0o755, dir_fd=parent.fd)
                _set_opaque(parent.fd, name)
                return

    def hide_below(self, parent: int, name: bytes) -> None:
        _set_opaque(parent, name)


class _Plain:
    """Whiteouts for a copy of the lower layers: removes files of lower layers, but keeps files that this layer added."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._added: set[bytes] = set()

    def apply(self, head: bytes, name: bytes) -> None:
        if name == OPAQUE:
            parent = self._tree.directory(head)
            self._added_with_parents(head)
            self._clear(parent.fd, head)
            self._tree.forget()
        elif not name.startswith(b".wh..wh."):
            hidden = hidden_name(head, name)
            try:
                parent = self._tree.directory(head, create=False)
            except (FileNotFoundError, NotADirectoryError):
                return
            self._remove_lower(parent.fd, hidden, head + b"/" + hidden if head else hidden)
            self._tree.forget()

    def _clear(self, fd: int, path: bytes) -> None:
        for name in os.listdir(fd):
            child = os.fsencode(name)
            self._remove_lower(fd, child, path + b"/" + child if path else child)

    def _remove_lower(self, fd: int, name: bytes, path: bytes) -> None:
        if path not in self._added:
            remove(name, fd)
            return
        try:
            inner = os.open(name, _DIRECTORY, dir_fd=fd)
        except (NotADirectoryError, OSError):
            return  # keep a file, symlink or device, which belongs to this layer
        try:
            self._clear(inner, path)
        finally:
            os.close(inner)

    def added(self, path: bytes) -> None:
        self._added_with_parents(path)

    def _added_with_parents(self, path: bytes) -> None:
        while path and path not in self._added:
            self._added.add(path)
            path = path.rpartition(b"/")[0]

    def directory(self, path: bytes) -> Parent:
        return self._tree.directory(path)

    def hide_below(self, parent: int, name: bytes) -> None:
        """Does nothing. A plain tree has no whiteouts: in it, a 0:0 device is an ordinary device."""


def whiteouts_for(tree: Tree, *, overlay: bool) -> Whiteouts:
    return _Overlay(tree) if overlay else _Plain(tree)
