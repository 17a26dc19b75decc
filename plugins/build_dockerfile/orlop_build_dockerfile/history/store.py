"""Records and blobs of the history, in a directory of the builder.

   records/<digest of the ref>   a serialized BuildHistoryRecord
   blobs/<digest>                the content of records: logs, traces, attestations
   new-*                         incomplete files; the next builder process removes them

A blob is written before the record that refers to it, and removed after it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TypeVar

import trio
from google.protobuf.message import DecodeError

from orlop_build_dockerfile.contracts import BuildFailed
from orlop_build_dockerfile.grpc import Code
from orlop_build_dockerfile.pb import control_pb2 as pb

__all__ = ["History"]

T = TypeVar("T")
_log = logging.getLogger("orlop.build")

STARTED, COMPLETE, DELETED = 0, 1, 2
# Limit for the number of records. `maxEntries` is not enough, because a record is deleted only if it exceeds both
# `maxEntries` and `maxAge`
_MOST_RECORDS = 1000
_MOST_BYTES = 256 << 20  # limit for the bytes of blobs
# limit for the bytes of records, because records are kept in memory, and clients choose their content
_MOST_MEMORY = 32 << 20
_WAITING = 1000  # limit for the events that are kept for a slow listener


class History:
    """The history of one builder. The keys of `active` and `records` are refs, the names that clients gave their builds.
    Call `open` first."""

    def __init__(self, directory: str, max_age: float, max_entries: int) -> None:
        self._directory, self._max_age, self._max_entries = directory, max_age, max_entries
        self.active: dict[str, pb.BuildHistoryRecord] = {}
        self.records: dict[str, pb.BuildHistoryRecord] = {}
        self._sizes: dict[str, int] = {}  # bytes of each blob
        self._weights: dict[str, int] = {}  # bytes of each record
        self._listeners: set[trio.MemorySendChannel[pb.BuildHistoryEvent]] = set()
        self._one = trio.CapacityLimiter(1)  # files are changed in the order of the calls

    async def open(self) -> None:
        self.records, self._sizes = await trio.to_thread.run_sync(self._read, limiter=self._one)
        await self._collect()

    def _read(self) -> tuple[dict[str, pb.BuildHistoryRecord], dict[str, int]]:
        found: dict[str, pb.BuildHistoryRecord] = {}
        for name in ("records", "blobs"):
            os.makedirs(os.path.join(self._directory, name), 0o700, exist_ok=True)
        for name in os.listdir(self._directory):
            if name.startswith("new-"):
                os.unlink(os.path.join(self._directory, name))
        for name in os.listdir(os.path.join(self._directory, "records")):
            path = os.path.join(self._directory, "records", name)
            try:
                with open(path, "rb") as file:
                    raw = file.read()
                record = pb.BuildHistoryRecord.FromString(raw)
            except DecodeError:
                _log.warning("record %s of the build history cannot be read, and is removed", name)
                os.unlink(path)
                continue
            found[record.Ref], self._weights[record.Ref] = record, len(raw)
        used = {digest for record in found.values() for digest in _digests(record)}
        sizes = {}
        for name in os.listdir(os.path.join(self._directory, "blobs")):
            path = os.path.join(self._directory, "blobs", name)
            if f"sha256:{name}" in used:
                sizes[f"sha256:{name}"] = os.stat(path).st_size
            else:
                os.unlink(path)
        return found, sizes

    # --- writing

    def start(self, record: pb.BuildHistoryRecord) -> None:
        self.active[record.Ref] = record
        self._tell(STARTED, record)

    def failed_to_write(self, error: OSError) -> None:
        """Log the error. A build does not fail because its record cannot be written, for example on a full disk."""
        _log.warning("cannot write the build history: %s", error)

    def abandon(self, record: pb.BuildHistoryRecord) -> None:
        """Forget a running build that leaves no record."""
        if self.active.get(record.Ref) is record:
            del self.active[record.Ref]

    async def complete(self, record: pb.BuildHistoryRecord) -> None:
        """Keep the record of a build that has ended."""
        before = self.records.get(record.Ref)
        await self._write_record(record)
        self.abandon(record)
        self._tell(COMPLETE, record)
        if before is not None:
            await self._remove_blobs(before)
        await self._collect()

    async def _write_record(self, record: pb.BuildHistoryRecord) -> None:
        raw = record.SerializeToString()
        await self._run(lambda: self._put("records", _name(record.Ref), raw))
        self.records[record.Ref], self._weights[record.Ref] = record, len(raw)

    async def add_blob(self, data: bytes, media_type: str) -> pb.Descriptor:
        """Keep a blob for a record that will be completed soon."""
        digest = hashlib.sha256(data).hexdigest()
        await self._run(lambda: self._put("blobs", digest, data))
        self._sizes[f"sha256:{digest}"] = len(data)
        return pb.Descriptor(media_type=media_type, digest=f"sha256:{digest}", size=len(data))

    async def take_blob(self, path: str, digest: str, media_type: str) -> pb.Descriptor:
        """Keep a file made by `new_path` as a blob. `digest` is the digest of its content, in hexadecimal."""
        size = await self._run(lambda: self._take(path, digest))
        self._sizes[f"sha256:{digest}"] = size
        return pb.Descriptor(media_type=media_type, digest=f"sha256:{digest}", size=size)

    def new_path(self) -> str:
        return os.path.join(self._directory, f"new-{secrets.token_hex(8)}")

    def _take(self, path: str, digest: str) -> int:
        size = os.stat(path).st_size
        os.rename(path, os.path.join(self._directory, "blobs", digest))
        return size

    def _put(self, kind: str, name: str, data: bytes) -> None:
        path = self.new_path()
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(data)
        os.rename(path, os.path.join(self._directory, kind, name))

    async def _run(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work, limiter=self._one)

    async def pin(self, ref: str, pinned: bool) -> None:
        """Exempt a record from the limits, or end the exemption. Raises BuildFailed if too many are exempt."""
        kept = sum(self._weights[each.Ref] for each in self.records.values() if each.pinned and each.Ref != ref)
        if pinned and kept + self._weights.get(ref, 0) > _MOST_MEMORY:
            raise BuildFailed("cannot keep more records of builds", code=Code.RESOURCE_EXHAUSTED)
        record = pb.BuildHistoryRecord()
        record.CopyFrom(self._record(ref))
        record.pinned = pinned
        record.Generation += 1
        await self._write_record(record)
        self._tell(COMPLETE, record)

    async def delete(self, ref: str) -> None:
        record = self._record(ref)
        del self.records[ref], self._weights[ref]
        await self._run(lambda: _unlink(os.path.join(self._directory, "records", _name(ref))))
        await self._remove_blobs(record)
        self._tell(DELETED, record)

    def _record(self, ref: str) -> pb.BuildHistoryRecord:
        found = self.records.get(ref)
        if found is None:
            raise BuildFailed(f"failed to retrieve ref {ref[:100]}: no such record", code=Code.NOT_FOUND)
        return found

    async def _remove_blobs(self, gone: pb.BuildHistoryRecord) -> None:
        used = {digest for record in self.records.values() for digest in _digests(record)}
        for digest in set(_digests(gone)) - used:
            self._sizes.pop(digest, None)
            await self._run(partial(_unlink, self.blob(digest)))

    async def _collect(self) -> None:
        """Delete records that exceed both `maxEntries` and `maxAge`, as in BuildKit, and records that exceed Orlop's
        limits."""
        by_age = sorted(self.records.values(), key=lambda record: -record.CompletedAt.ToNanoseconds())
        oldest = time.time_ns() - int(self._max_age * 1e9)
        size = memory = 0
        for number, record in enumerate(by_age):
            memory += self._weights[record.Ref]
            size += sum(self._sizes.get(digest, 0) for digest in _digests(record))
            expired = number >= self._max_entries and record.CompletedAt.ToNanoseconds() < oldest
            too_large = number > 0 and (size > _MOST_BYTES or memory > _MOST_MEMORY)
            if not record.pinned and (expired or number >= _MOST_RECORDS or too_large):
                await self.delete(record.Ref)

    # --- reading

    def blob(self, digest: str) -> str:
        """The path of a blob. Raises `BuildFailed`."""
        algorithm, _, name = digest.partition(":")
        if algorithm != "sha256" or len(name) != 64 or not set(name) <= set("0123456789abcdef"):
            raise BuildFailed(f"invalid digest {digest[:100]!r}", code=Code.INVALID_ARGUMENT)
        return os.path.join(self._directory, "blobs", name)

    def size(self, digest: str) -> int:
        if digest not in self._sizes:
            raise BuildFailed(f"content {digest[:100]}: not found", code=Code.NOT_FOUND)
        return self._sizes[digest]

    @contextmanager
    def listening(self) -> Iterator[trio.MemoryReceiveChannel[pb.BuildHistoryEvent]]:
        """A channel with all events from now on. If a listener does not read, its channel is closed."""
        send, receive = trio.open_memory_channel[pb.BuildHistoryEvent](_WAITING)
        self._listeners.add(send)
        try:
            yield receive
        finally:
            self._listeners.discard(send)
            send.close()
            receive.close()

    def _tell(self, kind: int, record: pb.BuildHistoryRecord) -> None:
        for listener in list(self._listeners):
            try:
                listener.send_nowait(pb.BuildHistoryEvent(type=kind, record=record))
            except trio.WouldBlock:
                self._listeners.discard(listener)
                listener.close()


def _name(ref: str) -> str:
    """The name of a record's file. It is a digest, because clients choose refs freely."""
    return hashlib.sha256(ref.encode()).hexdigest()


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


def _digests(record: pb.BuildHistoryRecord) -> Sequence[str]:
    results = [*record.Results.values(), record.Result]
    found = [record.logs, record.trace, record.externalError]
    found += [each for result in results for each in result.Attestations]
    return [each.digest for each in found if each.digest]
