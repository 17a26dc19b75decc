"""The progress of a step for which several builds wait. Each build sees the whole progress, even if it joins late."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from orlop_build_dockerfile.contracts import Vertex
from orlop_build_dockerfile.pb.ops_pb2 import Range, SourceInfo

__all__ = ["Broadcast"]

_KEPT = 1 << 20  # bytes of log that are kept for builds that join later
_CALLS = 10_000


class Broadcast:
    """Implements `contracts.Vertex` for several builds."""

    def __init__(self) -> None:
        self.cached = False
        self._shown: list[Vertex] = []
        self._before: list[Callable[[Vertex], None]] = []
        self._size = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def joined(cls, all_of: dict[str, Broadcast], key: str, shown: Vertex) -> AsyncIterator[Broadcast]:
        """Join the step `key`. The entry is made for the first build that joins, and removed when the last build leaves."""
        found = all_of.setdefault(key, cls())
        for call in found._before:
            call(shown)
        found._shown.append(shown)
        try:
            yield found
        finally:
            found._shown.remove(shown)
            if not found._shown and all_of.get(key) is found:
                del all_of[key]

    def _send(self, call: Callable[[Vertex], None], size: int) -> None:
        if self._size + size <= _KEPT and len(self._before) < _CALLS:
            self._size += size
            self._before.append(call)
        for shown in self._shown:
            call(shown)

    def log(self, data: bytes, stream: int = 1) -> None:
        self._send(lambda shown: shown.log(data, stream), len(data))

    def status(self, id: str, *, name: str = "", current: int = 0, total: int = 0, done: bool = False) -> None:
        self._send(lambda shown: shown.status(id, name=name, current=current, total=total, done=done), 100)

    def warn(
        self,
        message: str,
        *,
        detail: Sequence[str] = (),
        url: str = "",
        source: SourceInfo | None = None,
        ranges: Sequence[Range] = (),
    ) -> None:
        options: dict[str, Any] = {"detail": detail, "url": url, "source": source, "ranges": ranges}
        self._send(lambda shown: shown.warn(message, **options), 1000)
