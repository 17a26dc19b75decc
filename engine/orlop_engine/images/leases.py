"""Leases protect content that no image references yet, such as the blobs of a running pull, from garbage collection.

A lease is an object in memory and ends with its operation. The lease of a pull is also stored in a row
(`resume:<reference>`), so that the next pull can resume after a crash, a broken connection or a cancellation. These rows
expire after a day.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from .records import ResumeRecord

__all__ = ["RESUME_SECONDS", "Lease", "Leases"]

RESUME_SECONDS = 24 * 3600.0


class Lease:
    """The digests and layers that are protected while one operation runs."""

    def __init__(self) -> None:
        self.blobs: set[str] = set()
        self.chains: set[str] = set()
        self.resumed = ""
        """For a running pull: the name under which the pull can be resumed."""

    def record(self) -> ResumeRecord:
        return ResumeRecord(tuple(sorted(self.blobs)), tuple(sorted(self.chains)), time.time() + RESUME_SECONDS)


class Leases:
    """All leases. `resumable` maps the full reference of each running or interrupted pull to its content."""

    def __init__(self) -> None:
        self._active: list[Lease] = []
        self.resumable: dict[str, ResumeRecord] = {}

    @contextmanager
    def hold(self) -> Iterator[Lease]:
        lease = self.add()
        try:
            yield lease
        finally:
            self.drop(lease)

    def add(self) -> Lease:
        """A new lease. It ends when `drop` is called."""
        lease = Lease()
        self._active.append(lease)
        return lease

    def drop(self, lease: Lease) -> None:
        self._active.remove(lease)

    def expired(self) -> list[str]:
        """Interrupted pulls that were not resumed in time."""
        now = time.time()
        return [name for name, record in self.resumable.items() if record.until < now]

    def interrupted(self) -> list[str]:
        """Pulls that can be resumed and are not running."""
        running = {lease.resumed for lease in self._active}
        return [name for name in self.resumable if name not in running]

    def blobs(self) -> set[str]:
        return set(_chain(lease.blobs for lease in self._active)) | set(_chain(r.blobs for r in self.resumable.values()))

    def chains(self) -> set[str]:
        return set(_chain(lease.chains for lease in self._active)) | set(_chain(r.chains for r in self.resumable.values()))


def _chain(groups: Iterable[Iterable[str]]) -> Iterator[str]:
    for group in groups:
        yield from group
