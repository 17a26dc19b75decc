"""Records, for each blob, the repositories from which the blob was pulled, and to which it was pushed. A push can ask the
registry to mount the blob from such a repository, instead of uploading it again.

The repositories are stored in rows of the table `meta`. The row `blob-repositories:<digest>` contains at most
`_REPOSITORIES` names, the newest last. A row is removed together with its blob, so there are never more rows than blobs. The
rows are only hints, so a damaged row is deleted, and a failed write of a row is no error. If the repository no longer has
the blob, the blob is uploaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress

import msgspec

from orlop_engine.pace import Pace
from orlop_kernel.store import UNREADABLE, Delete, Put, Store
from orlop_sdk import OrlopError

from .content import ContentStore
from .references import Reference

__all__ = ["BlobRepositories"]

_TABLE, _KEY = "meta", "blob-repositories:"
_REPOSITORIES = 8
_CANDIDATES = 3

_rows = msgspec.json.Decoder(tuple[str, ...])


class BlobRepositories:
    """The repositories of all blobs. They are kept in memory and in the database."""

    def __init__(self, store: Store, content: ContentStore) -> None:
        self._store, self._content = store, content
        self._known: dict[str, tuple[str, ...]] = {}

    async def load(self) -> None:
        """Read the rows. Damaged rows are deleted, and also rows whose blobs were removed."""
        pace, dropped = Pace(), []
        for key, value in self._store.load(_TABLE):
            await pace()
            if not key.startswith(_KEY):
                continue
            digest = key.removeprefix(_KEY)
            try:
                self._known[digest] = _rows.decode(value)
            except UNREADABLE:
                dropped.append(digest)
        dropped += [digest for digest in self._known if not self._content.has(digest)]
        await self.forget(dropped)

    async def add(self, repository: Reference, digests: Iterable[str]) -> None:
        """Record that the repository has these blobs."""
        puts = []
        for digest in filter(self._content.has, dict.fromkeys(digests)):
            before = self._known.get(digest, ())
            after = (*(name for name in before if name != repository.name), repository.name)[-_REPOSITORIES:]
            if after != before:
                self._known[digest] = after
                puts.append(Put(_TABLE, _KEY + digest, msgspec.json.encode(after)))
        await self._commit(puts)

    async def forget(self, digests: Sequence[str]) -> None:
        """Delete the rows of blobs that are no longer on this host."""
        deletes = [Delete(_TABLE, _KEY + digest) for digest in digests]
        for digest in digests:
            self._known.pop(digest, None)
        await self._commit(deletes)

    async def _commit(self, operations: list[Put] | list[Delete]) -> None:
        if operations:
            with suppress(OrlopError):
                await self._store.commit(operations)

    def of(self, digest: str) -> tuple[str, ...]:
        """The full names of the repositories that are known to have the blob, the newest last."""
        return self._known.get(digest, ())

    def candidates(self, digest: str, target: Reference) -> list[str]:
        """The paths of repositories from which the target's registry may be able to mount the blob; the newest first."""
        domain = f"{target.domain}/"
        names = [name for name in reversed(self._known.get(digest, ())) if name.startswith(domain) and name != target.name]
        return [name.removeprefix(domain) for name in names[:_CANDIDATES]]
