"""The receiving side of a transfer: packets in, packets out, files in between. Blocks; knows no connection."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from google.protobuf.message import DecodeError

from orlop_build_dockerfile.contracts import BuildFailed
from orlop_build_dockerfile.pb import fsutil_pb2 as pb
from orlop_build_dockerfile.session.listing import Action, Entry, Listing
from orlop_build_dockerfile.session.packets import DATA, ERR, FIN, REQ, STAT, unix_mode
from orlop_build_dockerfile.session.tree import Tree

__all__ = ["Receiver"]

OPEN_FILES = 64  # fsutil sends four files at a time


class Receiver:
    """Makes a directory equal to what is sent. `size` counts the bytes of packets, `requested` files whose content was asked
    for. `done` is set when everything is there and the sender has said that it is finished."""

    def __init__(self, root: str) -> None:
        self._tree = Tree(root)
        try:
            self._known = self._tree.scan()
        except BaseException:
            self._tree.close()
            raise
        self._listing = Listing(self._known, owners=self._tree.owners)
        self._number = 0
        self._wanted: dict[int, Entry] = {}
        self._open: dict[int, int] = {}
        self._links: list[Entry] = []
        self._directories: list[tuple[bytes, int]] = []
        self._complete = self._listed = False
        self.size = self.requested = 0
        self.done = False

    def close(self) -> None:
        """Leaves files that are incomplete without their time, so that the next transfer asks for them again."""
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()
        self._tree.close()

    def feed(self, packets: Iterable[bytes]) -> list[bytes]:
        """Take packets, and return those to send. Raises BuildFailed, and OSError of the local files."""
        answers: list[bytes] = []
        for raw in packets:
            self.size += len(raw)
            try:
                packet = pb.Packet.FromString(raw)
            except DecodeError as error:
                raise BuildFailed("the client sent an invalid packet", code=3) from error
            match packet.type:
                case 2:  # DATA
                    self._data(packet.ID, packet.data)
                case 0:  # STAT
                    if packet.HasField("stat") and packet.stat.path:
                        self._stat(packet.stat, answers)
                    else:
                        self._end_of_list()
                case 3:  # FIN
                    self._finish(answers)
                    self.done = self._complete
                    if not self.done:
                        raise BuildFailed("the client ended the transfer early")
                case 4:  # ERR
                    raise BuildFailed(f"error from sender: {packet.data[:4096].decode('utf-8', 'replace')}")
                case _:
                    raise BuildFailed(f"the client sent a packet of the unknown type {packet.type}", code=3)
        self._finish(answers)
        return answers

    def _stat(self, found: pb.Entry, answers: list[bytes]) -> None:
        if self._listed:
            raise BuildFailed("the client sent a file after the end of its list", code=3)
        number, self._number = self._number, self._number + 1
        entry = _entry(found)
        action = self._listing.add(entry)
        known = self._known.get(entry.path)
        compare = action is Action.KEEP and entry.xattrs and stat.S_ISREG(entry.mode)
        if compare and not self._tree.same_xattrs(entry.path, entry.xattrs):
            self._listing.changed(entry.path)
            action = Action.LINK if entry.link else Action.REQUEST
        match action:
            case Action.MAKE:
                self._tree.make(entry, known)
            case Action.REQUEST:
                self._wanted[number] = entry
                self.requested += 1
                answers.append(pb.Packet(type=REQ, ID=number).SerializeToString())
            case Action.LINK:
                self._links.append(entry)
        if stat.S_ISDIR(entry.mode):
            self._directories.append((entry.path, entry.modified))

    def _end_of_list(self) -> None:
        self._listed = True
        for path in self._listing.stale():
            self._tree.remove(path)

    def _data(self, number: int, data: bytes) -> None:
        entry = self._wanted.get(number)
        if entry is None:
            raise BuildFailed(f"the client sent data of file {number}, which was not asked for", code=3)
        fd = self._open.get(number)
        if fd is None:
            if len(self._open) >= OPEN_FILES:
                raise BuildFailed("the client sends too many files at the same time", code=8)
            fd = self._open[number] = self._tree.create(entry.path, replace=entry.path in self._known)
        if data:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            return
        del self._wanted[number], self._open[number]
        self._tree.finish(fd, entry)

    def _finish(self, answers: list[bytes]) -> None:
        if not self._listed or self._wanted or self._complete:
            return
        for entry in self._links:
            self._tree.link(entry)
        # Last, because what is made in a directory changes its time; entries before their directories do not matter
        for path, modified in self._directories:
            self._tree.set_time(path, modified)
        self._complete = True
        answers.append(pb.Packet(type=FIN).SerializeToString())


def _entry(found: pb.Entry) -> Entry:
    try:
        mode = unix_mode(found.mode)
        device = os.makedev(found.devmajor, found.devminor) if found.devmajor or found.devminor else 0
    except (ValueError, OverflowError) as error:
        raise BuildFailed(f"the client sent a file that cannot be: {error}", code=3) from error
    xattrs = dict(found.xattrs) if found.xattrs else {}
    size = found.size if stat.S_ISREG(mode) else 0
    return Entry(found.path, mode, found.uid, found.gid, size, found.modTime, found.linkname, device, xattrs)


assert (STAT, REQ, DATA, FIN, ERR) == (0, 1, 2, 3, 4)
