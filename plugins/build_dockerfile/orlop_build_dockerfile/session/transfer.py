"""Transfers directories in calls: receives directories of the client, and sends results."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar, TypeVarTuple

import trio
from google.protobuf.message import DecodeError

from orlop_build_dockerfile.contracts import BuildFailed, LocalDirectory, Transferred
from orlop_build_dockerfile.grpc import Call, Headers
from orlop_build_dockerfile.nurseries import nursery
from orlop_build_dockerfile.pb import fsutil_pb2 as pb
from orlop_build_dockerfile.session.packets import CHUNK, DATA, ERR, FIN, REQ, STAT, encode_metadata, go_mode
from orlop_build_dockerfile.session.receiver import Receiver
from orlop_sdk import linux

__all__ = ["options", "receive_directory", "send_directory"]

_BATCH = 1 << 20
_SECOND = 1_000_000_000
_REQUESTS = 1000
_END = 5  # seconds for the receiver to end a call whose files it has received
T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")
_threads = trio.CapacityLimiter(8)  # a separate limit, so that slow disks do not use up the threads of other work


async def _thread(function: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
    return await trio.to_thread.run_sync(function, *arguments, limiter=_threads)


def options(wanted: LocalDirectory) -> Headers:
    """The headers of a request for a directory."""
    return [
        *encode_metadata("dir-name", [wanted.name]),
        *encode_metadata("include-patterns", wanted.include),
        *encode_metadata("exclude-patterns", wanted.exclude),
        *encode_metadata("followpaths", wanted.follow),
    ]


async def receive_directory(call: Call, target: str, progress: Callable[[int], None]) -> Transferred:
    """Make directory `target` equal to the directory that the other side of a call sends. The list of the last transfer is
    kept in a file next to the directory. Raises BuildFailed and RpcError."""
    try:
        receiver = await _thread(Receiver, target, target + ".list")
        try:
            while batch := await call.receive_batch(_BATCH):
                answers = receiver.match(batch)
                if answers is None:
                    answers = await _thread(receiver.feed, batch)
                if answers:
                    await call.send(*answers)
                progress(receiver.size)
                if receiver.done:
                    call.finish_sending()
            if not receiver.done:
                raise BuildFailed("the client ended the transfer early")
        finally:
            receiver.close()
    except OSError as error:
        raise BuildFailed(f"cannot write the files of the client: {error.strerror}") from error
    return Transferred(receiver.requested, receiver.size, receiver.state)


class _Sender:
    """The files of a directory, as packets. All methods block. `below`, `time`: see `contracts.Session.send_directory`."""

    def __init__(self, root: int, below: bytes = b"", time: int | None = None) -> None:
        self._root, self._below, self._time = root, below, time
        self._paths: list[bytes | None] = []  # paths of regular files, by their position in the list

    def entries(self) -> Iterator[bytes]:
        """The STAT packets: a directory comes before its entries, and these are sorted by the bytes of their names."""
        linked: dict[tuple[int, int], bytes] = {}
        waiting: list[bytes] = [b""]
        if self._below:
            made = pb.Entry(path=self._below, mode=go_mode(stat.S_IFDIR | 0o755), modTime=(self._time or 0) * _SECOND)
            self._paths.append(None)
            yield pb.Packet(type=STAT, stat=made).SerializeToString()
        while waiting:
            path = waiting.pop()
            if path:
                info = self._stat(path)
                if stat.S_ISSOCK(info.st_mode):
                    continue
                yield self._packet(path, info, linked)
                if not stat.S_ISDIR(info.st_mode):
                    continue
            fd = self._open(path or b".", os.O_RDONLY | os.O_DIRECTORY)
            try:
                names = sorted(map(os.fsencode, os.listdir(fd)), reverse=True)
            finally:
                os.close(fd)
            waiting += [path + b"/" + name if path else name for name in names]
        yield pb.Packet(type=STAT).SerializeToString()

    def _open(self, path: bytes, flags: int) -> int:
        return linux.open_beneath(self._root, path, flags, symlinks=False)

    def _stat(self, path: bytes) -> os.stat_result:
        fd = self._open(path, os.O_PATH | os.O_NOFOLLOW)
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def _packet(self, path: bytes, info: os.stat_result, linked: dict[tuple[int, int], bytes]) -> bytes:
        regular = stat.S_ISREG(info.st_mode)
        shown = self._below + b"/" + path if self._below else path
        time = info.st_mtime_ns if self._time is None else self._time * _SECOND
        entry = pb.Entry(path=shown, mode=go_mode(info.st_mode), uid=info.st_uid, gid=info.st_gid, modTime=time)
        if stat.S_ISLNK(info.st_mode):
            fd = self._open(path, os.O_PATH | os.O_NOFOLLOW)
            try:
                entry.linkname = os.fsencode(os.readlink(b"", dir_fd=fd))
            finally:
                os.close(fd)
        elif regular:
            entry.size = info.st_size
            if info.st_nlink > 1:
                first = linked.setdefault((info.st_dev, info.st_ino), shown)
                entry.linkname = first if first != shown else b""
        elif stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode):
            entry.devmajor, entry.devminor = os.major(info.st_rdev), os.minor(info.st_rdev)
        self._paths.append(path if regular else None)
        return pb.Packet(type=STAT, stat=entry).SerializeToString()

    def batches(self, packets: Iterator[bytes]) -> Iterator[list[bytes]]:
        batch, size = [], 0
        for packet in packets:
            batch.append(packet)
            size += len(packet)
            if size >= _BATCH:
                yield batch
                batch, size = [], 0
        yield batch

    def contents(self, numbers: Sequence[int]) -> Iterator[bytes]:
        for number in numbers:
            yield from self.content(number)

    def content(self, number: int) -> Iterator[bytes]:
        """The DATA packets of a file. Raises BuildFailed if the receiver may not request this file."""
        path = self._paths[number] if number < len(self._paths) else None
        if path is None:
            raise BuildFailed(f"the client asks for file {number}, which was not sent", code=3)
        fd = self._open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            while data := os.read(fd, CHUNK):
                yield pb.Packet(type=DATA, ID=number, data=data).SerializeToString()
        finally:
            os.close(fd)
        yield pb.Packet(type=DATA, ID=number).SerializeToString()


async def send_directory(
    call: Call, directory: int, progress: Callable[[int], None], *, below: bytes = b"", time: int | None = None
) -> None:
    """Send a directory to the other side of a call, which requests the files that it needs. Raises BuildFailed, RpcError."""
    sender = _Sender(directory, below, time)
    wanted, numbers = trio.open_memory_channel[int](math.inf)  # unbounded, because each file can be requested only once
    sent = 0

    async def send(packets: Iterator[bytes]) -> None:
        nonlocal sent
        batches = sender.batches(packets)
        while batch := await _thread(next, batches, None):
            await call.send(*batch)
            sent += sum(map(len, batch))
            progress(sent)

    try:
        async with nursery() as tasks:
            # Receive requests while the list is sent, because otherwise both sides may wait for each other
            tasks.start_soon(_receive_requests, call, wanted)
            await send(sender.entries())
            async for number in numbers:
                await send(sender.contents(_at_once(number, numbers)))
            await call.send(pb.Packet(type=FIN).SerializeToString())
            call.finish_sending()
    except OSError as error:
        raise BuildFailed(f"cannot read the result of the build: {error}") from error
    with trio.move_on_after(_END):
        while await call.receive_batch():
            pass


def _at_once(number: int, numbers: trio.MemoryReceiveChannel[int]) -> list[int]:
    """This request and the waiting requests, up to a limit."""
    found = [number]
    while len(found) < _REQUESTS:
        try:
            found.append(numbers.receive_nowait())
        except (trio.WouldBlock, trio.EndOfChannel):
            break
    return found


async def _receive_requests(call: Call, wanted: trio.MemorySendChannel[int]) -> None:
    asked: set[int] = set()
    with wanted:
        while batch := await call.receive_batch():
            for raw in batch:
                try:
                    packet = pb.Packet.FromString(raw)
                except DecodeError as error:
                    raise BuildFailed("the client sent an invalid packet", code=3) from error
                if packet.type == FIN:
                    return
                if packet.type == ERR:
                    raise BuildFailed(f"error from receiver: {packet.data[:4096].decode('utf-8', 'replace')}")
                if packet.type != REQ or packet.ID in asked:
                    raise BuildFailed("the client sent an unexpected packet", code=3)
                asked.add(packet.ID)
                wanted.send_nowait(packet.ID)
    raise BuildFailed("the client ended the transfer early")
