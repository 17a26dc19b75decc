"""Rewrites a layer's tar in the form that `orlop_sdk.LayerStream` needs. A program makes a file system image of the result.

The rules for entries are those of `extract`. Instead of a directory on disk there is a tree of `_Node`s in memory, with
kinds and names but without attributes. Whiteouts are written last, because the layer may contain a whiteout and, after it,
an entry with the hidden name (see `whiteout`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from .archive import entries
from .encode import END, entry_header, padding
from .errors import UnpackError, shown
from .extract import is_accepted_xattr
from .header import Entry
from .request import Limits
from .stream import Uncompressed
from .tree import clean
from .whiteout import OPAQUE, hidden_name

__all__ = ["Normalized", "Output", "normalize"]

_LINKS = 40  # maximum number of symlinks that are followed in one path, as in the kernel
_DIRECTORY, _SYMLINK = b"5", b"2"
_KINDS = frozenset((b"0", b"7", b"1", b"2", b"3", b"4", b"5", b"6"))


class Output(Protocol):
    """The normalized tar."""

    def write(self, data: bytes | memoryview) -> None: ...

    def zeros(self, size: int) -> None:
        """Write zeros: the holes of a sparse file."""
        ...


class Normalized:
    """The files of a layer: `content` is the number of bytes of file content, `inodes` the number of files. `entries` is the
    number of entries in the original tar."""

    def __init__(self) -> None:
        self.entries = self.content = self.inodes = 0


class _Node:
    """A file of the layer; hard links share one node. `kind` is the type in the tar header. For a directory, `children` are
    its entries, and `hidden` are the names that its whiteouts hide. `opaque` is true if the directory has an opaque
    whiteout."""

    __slots__ = ("children", "counted", "hidden", "kind", "link", "opaque", "size")

    def __init__(self, kind: bytes, link: bytes = b"", size: int = 0) -> None:
        self.kind, self.link, self.size = kind, link, size
        self.children: dict[bytes, _Node] = {} if kind == _DIRECTORY else _NO_CHILDREN
        self.hidden: set[bytes] | None = None
        self.opaque = self.counted = False

    def hide(self, name: bytes) -> None:
        if self.hidden is None:
            self.hidden = set()
        self.hidden.add(name)


_NO_CHILDREN: dict[bytes, _Node] = {}


def _made(name: bytes) -> Entry:
    return Entry(name, _DIRECTORY, 0o755, 0, 0, 0, 0, b"", 0, 0)


class _Normalizer:
    def __init__(self, source: Uncompressed, out: Output, limits: Limits, tick: Callable[[], None]) -> None:
        self._source, self._out, self._limits, self._tick = source, out, limits, tick
        self._root = _Node(_DIRECTORY)
        self._found: tuple[bytes, _Node, bytes] | None = None  # the argument and the result of the last call of `_directory`
        self._expanded = 0

    def run(self) -> Normalized:
        result, limits = Normalized(), self._limits
        self._out.write(entry_header(_made(b"./")))
        for entry in entries(self._source):
            result.entries += 1
            if result.entries > limits.entries:
                raise UnpackError(f"it has more than {limits.entries} entries, which is the limit")
            try:
                self._one(entry)
            except (ValueError, OverflowError) as error:
                raise UnpackError(f"{shown(entry.name)}: {error}") from error
            self._tick()
        self._source.drain()
        self._finish(result)
        self._out.write(END)
        return result

    def _one(self, entry: Entry) -> None:
        limits = self._limits
        if len(entry.name) > limits.path or len(entry.link) > limits.path:
            raise UnpackError(f"{shown(entry.name)}: the name is longer than {limits.path} bytes, which is the limit")
        path = clean(entry.name)
        if path.count(b"/") >= limits.depth:
            raise UnpackError(f"{shown(entry.name)}: it is more than {limits.depth} directories deep, which is the limit")
        head, _, name = path.rpartition(b"/")
        if name.startswith(b".wh."):
            self._whiteout(head, name)
            self._source.skip(entry.size)
        elif not path:
            self._source.skip(entry.size)  # ignore the root's attributes, as for an unpacked layer
        elif entry.type not in _KINDS:
            raise UnpackError(f"{shown(entry.name)}: entries of type {shown(entry.type)} are not supported")
        elif len(name) > 255:
            raise UnpackError(f"{shown(entry.name)}: File name too long")
        else:
            parent, base = self._directory(head)
            self._add(parent, base, name, entry)

    # --- the tree

    def _directory(self, path: bytes) -> tuple[_Node, bytes]:
        """The directory `path` and its path without symlinks. Missing directories are made."""
        if self._found is not None and self._found[0] == path:
            return self._found[1], self._found[2]
        node, real = self._walk(path, create=True)
        self._found = path, node, real
        return node, real

    def _walk(self, path: bytes, *, create: bool) -> tuple[_Node, bytes]:
        """Resolve a directory as in a chroot. Raises `UnpackError` if the path is not a directory, and `FileNotFoundError`
        if it does not exist and `create` is false."""
        nodes, names = [self._root], list[bytes]()
        parts, of_links, links = deque(path.split(b"/") if path else ()), 0, 0
        while parts:
            part = parts.popleft()
            of_link, of_links = of_links > 0, max(0, of_links - 1)
            if part in (b"", b"."):
                continue
            if part == b"..":
                if names:
                    nodes.pop()
                    names.pop()
                continue
            node = nodes[-1].children.get(part)
            if node is not None and node.kind == _SYMLINK:
                links += 1
                target = node.link.split(b"/")
                if links > _LINKS:
                    raise UnpackError(f"{shown(path)}: Too many levels of symbolic links")
                if node.link.startswith(b"/"):
                    nodes, names = [self._root], []
                of_links += len(target)
                parts.extendleft(reversed(target))
                continue
            if node is None:
                if not create:
                    raise FileNotFoundError
                if of_link:
                    raise UnpackError(f"{shown(path)}: it is a dangling symlink, and cannot contain files")
                node = self._make(nodes[-1], names, part)
            elif node.kind != _DIRECTORY:
                raise UnpackError(f"{shown(path)}: Not a directory")
            nodes.append(node)
            names.append(part)
        return nodes[-1], b"/".join(names)

    def _make(self, parent: _Node, names: list[bytes], name: bytes) -> _Node:
        """Make a directory for which the tar has no entry."""
        node = parent.children[name] = _Node(_DIRECTORY)
        self._out.write(entry_header(_made(b"/".join((*names, name)) + b"/")))
        return node

    # --- entries

    def _add(self, parent: _Node, base: bytes, name: bytes, entry: Entry) -> None:
        before = parent.children.get(name)
        entry.name = base + b"/" + name if base else name
        link = b""
        if entry.type == b"7":
            entry.type = b"0"
        if entry.type == b"1":
            node = self._linked(parent, name, entry)
        elif entry.type == _DIRECTORY and before is not None and before.kind == _DIRECTORY:
            node = before
        else:
            if entry.type == _SYMLINK:
                link = entry.link
                if not link or b"\0" in link:
                    raise UnpackError(f"{shown(entry.name)}: a symlink to {shown(link)!r} cannot be made")
            node = _Node(entry.type, link, self._size(entry))
        if before is not None and before is not node:
            self._found = None  # the replaced node may be a parent of this directory
            if before.opaque:
                parent.hide(name)
        parent.children[name] = node
        self._write(entry)

    @staticmethod
    def _size(entry: Entry) -> int:
        if entry.type != b"0":
            return 0
        return entry.size if entry.segments is None else entry.real_size

    def _linked(self, parent: _Node, name: bytes, entry: Entry) -> _Node:
        """The target of a hard link. The target's name in `entry` is replaced by the name without symlinks."""
        said = shown(entry.link)
        target = clean(entry.link)
        head, _, last = target.rpartition(b"/")
        node = None
        try:
            directory, base = self._walk(head, create=False)
        except (FileNotFoundError, UnpackError):
            directory = None
        if directory is not None and target:
            if directory is parent and last == name:
                raise UnpackError(f"{shown(entry.name)}: a hard link to {said!r} cannot be made")
            node = directory.children.get(last)
        if node is None:
            raise UnpackError(f"{shown(entry.name)}: it is a hard link to {said}, which does not exist")
        if node.kind == _DIRECTORY or self._is_above(entry.name, base, last):
            raise UnpackError(f"{shown(entry.name)}: a hard link to {said!r} cannot be made")
        entry.link = base + b"/" + last if base else last
        return node

    @staticmethod
    def _is_above(name: bytes, base: bytes, last: bytes) -> bool:
        """Whether the link's path is a parent directory of the target. Such a link is impossible, because anything at the
        link's path, and so the target, is removed before the link is made."""
        return (base + b"/" + last).startswith(name + b"/")

    def _whiteout(self, head: bytes, name: bytes) -> None:
        if name == OPAQUE:
            self._directory(head)[0].opaque = True
        elif not name.startswith(b".wh..wh."):
            self._directory(head)[0].hide(hidden_name(head, name))

    # --- output

    def _write(self, entry: Entry) -> None:
        kind, size, segments = entry.type, entry.size, entry.segments
        if kind != b"0":
            self._source.skip(size)
            entry.size, entry.segments = 0, None
        if kind not in (b"1", b"2"):
            entry.link = b""
        if kind == _DIRECTORY:
            entry.name += b"/"
        if entry.xattrs:
            accepted = kind in (b"0", _DIRECTORY)
            entry.xattrs = [pair for pair in entry.xattrs if accepted and is_accepted_xattr(pair[0])]
        if segments is not None and kind == b"0":
            self._write_sparse(entry, segments)
            return
        self._out.write(entry_header(entry))
        if entry.size:
            for piece in self._source.pieces(entry.size):
                self._out.write(piece)
                if entry.size > len(piece):
                    self._tick()
            self._out.write(padding(entry.size))

    def _write_sparse(self, entry: Entry, segments: list[tuple[int, int]]) -> None:
        self._expanded += entry.real_size
        if self._expanded > self._limits.size:
            raise UnpackError(f"{shown(entry.name)}: the sparse files are larger than {self._limits.size} bytes")
        entry.size, entry.segments = entry.real_size, None
        self._out.write(entry_header(entry))
        at = 0
        for offset, length in segments:
            self._out.zeros(offset - at)
            for piece in self._source.pieces(length):
                self._out.write(piece)
                self._tick()
            at = offset + length
        self._out.zeros(entry.real_size - at)
        self._out.write(padding(entry.real_size))

    def _finish(self, result: Normalized) -> None:
        """Write the whiteouts, and count the files of the layer."""
        waiting = [(b"", self._root)]
        while waiting:
            base, directory = waiting.pop()
            hidden = directory.hidden or ()
            for name in hidden:
                if name not in directory.children:
                    self._mark(base + b".wh." + name)
                    result.inodes += 1
            for name, node in directory.children.items():
                if not node.counted:
                    node.counted = True
                    result.inodes += 1
                    result.content += node.size
                if node.kind == _DIRECTORY:
                    below = base + name + b"/"
                    if node.opaque or name in hidden:
                        self._mark(below + OPAQUE)
                    waiting.append((below, node))

    def _mark(self, name: bytes) -> None:
        self._out.write(entry_header(Entry(name, b"0", 0o600, 0, 0, 0, 0, b"", 0, 0)))


def normalize(source: Uncompressed, out: Output, limits: Limits, tick: Callable[[], None] = lambda: None) -> Normalized:
    """Read all of `source` and write it to `out`. Raises `UnpackError` for an invalid archive, and the errors of `out`.
    `tick` is called often."""
    return _Normalizer(source, out, limits, tick).run()
