"""The receiving side of a transfer: processes packets, writes files, and returns packets to send. It blocks, and does not
use the connection."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence

from google.protobuf.message import DecodeError

from orlop_build_dockerfile.contracts import BuildFailed
from orlop_build_dockerfile.pb import fsutil_pb2 as pb
from orlop_build_dockerfile.session import last
from orlop_build_dockerfile.session.listing import Action, Entry, Known, Listing
from orlop_build_dockerfile.session.packets import DATA, ERR, FIN, REQ, STAT, unix_mode
from orlop_build_dockerfile.session.tree import Tree

__all__ = ["Receiver"]

OPEN_FILES = 64  # fsutil sends four files at a time
_FIN = pb.Packet(type=FIN).SerializeToString()


class _Open:
    """A file that is being received, and the number of its received bytes."""

    __slots__ = ("fd", "size")

    def __init__(self, fd: int) -> None:
        self.fd, self.size = fd, 0


class Receiver:
    """Makes a directory equal to the sender's directory. `size` is the number of bytes in packets, `requested` the number of
    files whose content was requested. `done` is set when all files exist and the sender has sent FIN. After that, `state` is
    a name for the content of the directory ("" if unknown). The name stays the same until the content changes. `beside` is
    the path of a file for the list of the last transfer."""

    def __init__(self, root: str, beside: str = "") -> None:
        self._tree = Tree(root)
        self._beside = beside
        self._last = last.load(beside, self._tree.root) if beside else None
        self._matched = 0  # number of packets that are the same as in the last transfer
        self._packets: list[bytes] = []
        self._kept = 0  # total bytes of these packets
        self._known: dict[bytes, Known] = {}
        self._listing: Listing | None = None
        self._number = 0
        self._wanted: dict[int, Entry] = {}
        self._open: dict[int, _Open] = {}
        self._links: list[Entry] = []
        self._directories: list[tuple[bytes, int]] = []
        self._complete = self._listed = False
        self.size = self.requested = 0
        self.done = False
        self.state = ""
        if self._last is None:
            try:
                self._compare()
            except BaseException:
                self._tree.close()
                raise

    def close(self) -> None:
        """Close all files. Incomplete files do not get their time, so that the next transfer requests them again."""
        for file in self._open.values():
            os.close(file.fd)
        self._open.clear()
        self._tree.close()

    def match(self, packets: list[bytes]) -> list[bytes] | None:
        """Process packets that are the next packets in the last transfer's list, and return the packets to send. Returns
        None if they are different; then call `feed` with them. Does not block."""
        if self._last is None or self._complete:
            return None
        end = self._matched + len(packets)
        if self._last.packets[self._matched : end] != packets:
            return None
        self._matched = end
        self.size += sum(map(len, packets))
        if end < len(self._last.packets):
            return []
        self._listed = self._complete = True
        self.state = self._last.state
        return [_FIN]

    def feed(self, packets: Iterable[bytes]) -> list[bytes]:
        """Process packets, and return the packets to send. Raises BuildFailed, and OSError for errors of local files."""
        answers: list[bytes] = []
        if self._last is not None and not self._complete:
            self._compare()
        for raw in packets:
            self.size += len(raw)
            self._take(raw, answers)
        self._finish(answers)
        return answers

    def _compare(self) -> None:
        """Read the existing entries, because the sender's list differs from the last list."""
        known, before = None, self._last
        if before is not None:
            last.forget(self._beside)
            known = _listed_before(before.packets)
        self._last = None
        self._known = self._tree.scan() if known is None else known
        self._listing = Listing(self._known, owners=self._tree.owners)
        if before is not None:
            for raw in before.packets[: self._matched]:
                self._take(raw, [])

    def _take(self, raw: bytes, answers: list[bytes]) -> None:
        try:
            packet = pb.Packet.FromString(raw)
        except DecodeError as error:
            raise BuildFailed("the client sent an invalid packet", code=3) from error
        match packet.type:
            case 2:  # DATA
                self._data(packet.ID, packet.data)
            case 0:  # STAT
                if self._listed:
                    raise BuildFailed("the client sent a file after the end of its list", code=3)
                if self._kept <= last.LIMIT:
                    self._kept += len(raw)
                    self._packets.append(raw)
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

    def _stat(self, found: pb.Entry, answers: list[bytes]) -> None:
        assert self._listing is not None
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
        assert self._listing is not None
        self._listed = True
        for path in self._listing.stale():
            self._tree.remove(path)

    def _data(self, number: int, data: bytes) -> None:
        entry = self._wanted.get(number)
        if entry is None:
            raise BuildFailed(f"the client sent data of file {number}, which the daemon has not requested", code=3)
        file = self._open.get(number)
        if file is None:
            if len(self._open) >= OPEN_FILES:
                raise BuildFailed("the client sends too many files at the same time", code=8)
            fd = self._tree.create(entry.path, replace=entry.path in self._known)
            file = self._open[number] = _Open(fd)
        if data:
            file.size += len(data)
            view = memoryview(data)
            while view:
                view = view[os.write(file.fd, view) :]
            return
        del self._wanted[number], self._open[number]
        if file.size != entry.size:
            self._beside = ""  # the next transfer must find the difference
        self._tree.finish(file.fd, entry)

    def _finish(self, answers: list[bytes]) -> None:
        if not self._listed or self._wanted or self._complete:
            return
        for entry in self._links:
            self._tree.link(entry)
        # This comes last, because making an entry changes the time of its directory
        for path, modified in self._directories:
            self._tree.set_time(path, modified)
        self._complete = True
        if self._beside and self._kept <= last.LIMIT:
            self.state = last.save(self._beside, self._tree.root, self._packets)
        self._packets.clear()
        answers.append(_FIN)


def _listed_before(packets: Sequence[bytes]) -> dict[bytes, Known] | None:
    """The entries that a complete transfer has left. None if there are hard links, because the list does not contain their
    inodes."""
    known: dict[bytes, Known] = {}
    for raw in packets[:-1]:
        entry = _entry(pb.Packet.FromString(raw).stat)
        if entry.link and stat.S_ISREG(entry.mode):
            return None
        known[entry.path] = Known(entry.mode, entry.uid, entry.gid, entry.size, entry.modified, 0, entry.device, entry.link)
    return known


def _entry(found: pb.Entry) -> Entry:
    try:
        mode = unix_mode(found.mode)
        device = os.makedev(found.devmajor, found.devminor) if found.devmajor or found.devminor else 0
    except (ValueError, OverflowError) as error:
        raise BuildFailed(f"the client sent an impossible file: {error}", code=3) from error
    xattrs = dict(found.xattrs) if found.xattrs else {}
    size = found.size if stat.S_ISREG(mode) else 0
    return Entry(found.path, mode, found.uid, found.gid, size, found.modTime, found.linkname, device, xattrs)


assert (STAT, REQ, DATA, FIN, ERR) == (0, 1, 2, 3, 4)
