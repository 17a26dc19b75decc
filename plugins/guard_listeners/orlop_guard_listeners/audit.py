"""The audit log: one JSON object per line, with the client, the request, the decision of the access checks, and the result.

`write` appends a line to a list, so that no request waits for the disk. One task writes the lines in batches, on a thread.
So if the daemon crashes, the lines of the last `_GATHER` seconds are lost. In a power cut, lines that the kernel has not
written to the disk are lost, too. With `required`, a call that may change something waits until its `request` line is
written, and is refused if writing fails.

On a full disk, lines are kept in memory, up to `_KEEP` bytes, and writing is retried. Lines beyond this limit are dropped
and counted. The first line that is written afterwards contains the count.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import trio

from orlop_kernel.config import ConfigError
from orlop_kernel.http.messages import Peer
from orlop_sdk import Unavailable
from orlop_sdk.base import rfc3339
from orlop_sdk.sizes import parse_size_decimal

from .audit_file import AuditFile
from .keys import AuditLog
from .objects import clean

__all__ = ["Audit", "Client", "Line", "Unwritable"]

_log = logging.getLogger("orlop.audit")

_GATHER = 0.05
_RETRY = 5.0
_PATIENCE = 10.0
_KEEP = 8 << 20
_PASSING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS})
"""Disk errors that may be temporary. Any other error at the daemon's start means a wrong configuration."""


class Unwritable(Unavailable):
    by = "audit log"


class Client(msgspec.Struct, omit_defaults=True, frozen=True):
    """The client: its process (from SO_PEERCRED) on a unix socket, its certificate on a TLS connection."""

    uid: int | None = None
    gid: int | None = None
    pid: int | None = None
    address: str = ""
    certificate: str = ""

    @classmethod
    def of(cls, peer: Peer) -> Client:
        if peer.transport == "unix":
            return cls(peer.uid, peer.gid, peer.pid)
        return cls(address=peer.address, certificate=clean(peer.subject))


class Line(msgspec.Struct, omit_defaults=True, kw_only=True):
    """`event`: "call" for a completed call; "begin" and "end" of a stream; "request" before a call is executed (with
    `required`); "build" for a refusal during a build; "lost" for `count` lines that were dropped. Lines of one call have the
    same `id`."""

    time: str
    event: str
    id: str = ""
    listener: str = ""
    role: str = ""
    peer: Client | None = None
    method: str = ""
    path: str = ""
    route: str = ""
    object: dict[str, str] = {}
    decision: str = ""
    by: str = ""
    reason: str = ""
    status: int = 0
    outcome: str = ""
    seconds: float = 0.0
    count: int = 0


_encode = msgspec.json.Encoder().encode


class Audit:
    """The audit log of a daemon. `run` is its writing task."""

    def __init__(self, settings: AuditLog) -> None:
        self.required = settings.required
        self._file = AuditFile(settings.path, parse_size_decimal(settings.max_size), settings.max_file)
        self._lines: list[bytes] = []
        self._bytes = 0
        self._lost = 0
        self._taken = 0
        self._written = 0
        self._trouble = ""
        self._work = trio.Event()
        self._expedite = trio.Event()
        self._closing = False
        self._life = trio.CancelScope(shield=True)
        self._progress = trio.lowlevel.ParkingLot()

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: AuditLog) -> AsyncIterator[Audit]:
        """Open the log. Raises ConfigError if the file cannot be used. At the end of the block, the remaining lines are
        written or dropped."""
        audit = cls(settings)
        try:
            audit._file.open()
        except OSError as error:
            if error.errno not in _PASSING:
                raise ConfigError(f"cannot write the audit log {settings.path}: {error.strerror}") from error
            audit._say(error)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(audit._run)
                nursery.start_soon(audit._limit)
                try:
                    yield audit
                finally:
                    audit._closing = True
                    audit._work.set()
                    audit._expedite.set()
                    nursery.cancel_scope.cancel()  # this only cancels `_limit`, because the other tasks are shielded
        finally:
            if audit._written < audit._taken:
                _log.error("the last %d lines of the audit log may be lost", audit._taken - audit._written)
            audit._file.close()

    def write(self, line: Line) -> int:
        """Queue the line. Returns its number, for `wait`; 0 if it was dropped."""
        data = _encode(line) + b"\n"
        self._work.set()
        if self._bytes + len(data) > _KEEP:
            self._lost += 1
            return 0
        self._lines.append(data)
        self._bytes += len(data)
        self._taken += 1
        return self._taken

    async def wait(self, number: int) -> None:
        """Wait until the line with this number is in the file. Raises `Unwritable` if writing fails or takes too long."""
        with trio.move_on_after(_PATIENCE):
            while number and self._written < number:
                self._expedite.set()
                await self._progress.park()
                if self._trouble:
                    break
        if not number or self._written < number:
            reason = self._trouble or f"no answer from its disk in {_PATIENCE:g} s"
            raise Unwritable(f"cannot write the audit log, so the request is refused: {reason}")

    async def _run(self) -> None:
        with self._life:  # shielded, so that calls that the shutdown cancels are still logged; `_limit` sets the deadline
            while not self._closing:
                await self._work.wait()
                if not self._expedite.is_set():
                    with trio.move_on_after(_RETRY if self._trouble else _GATHER):
                        await self._expedite.wait()
                self._work, self._expedite = trio.Event(), trio.Event()
                await self._flush()
                if self._trouble:
                    self._work.set()
                self._progress.unpark_all()
            await self._flush()

    async def _limit(self) -> None:
        """Stop writing `_PATIENCE` seconds after the cancellation: a disk that does not respond must not prevent the
        daemon's exit."""
        try:
            await trio.sleep_forever()
        finally:
            self._life.deadline = trio.current_time() + _PATIENCE

    async def _flush(self) -> None:
        """Write the queued lines. Lines that cannot be written stay queued. No line is written twice."""
        batch, taken, lost = self._lines, self._taken, self._lost
        if not batch and not lost:
            return
        head = _encode(Line(time=rfc3339(time.time_ns()), event="lost", count=lost)) + b"\n" if lost else b""
        self._lines, self._lost = [], 0
        try:
            await trio.to_thread.run_sync(self._file.append, head + b"".join(batch), abandon_on_cancel=True)
        except OSError as error:
            self._lines, self._lost = batch + self._lines, lost + self._lost
            self._say(error)
        else:
            self._bytes -= sum(map(len, batch))
            self._written = taken
            if self._trouble:
                _log.warning("the audit log %s can be written again; %d lines were lost", self._file.path, lost)
            self._trouble = ""

    def _say(self, error: OSError) -> None:
        reason = error.strerror or str(error)
        if reason != self._trouble:
            _log.error("cannot write the audit log %s: %s; its lines are kept in memory for now", self._file.path, reason)
        self._trouble = reason
