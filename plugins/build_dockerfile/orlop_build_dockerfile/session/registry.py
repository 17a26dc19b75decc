"""The open sessions, by their ids. A build and its session begin at nearly the same time; either may be first."""

from __future__ import annotations

import trio

from orlop_build_dockerfile.contracts import BuildFailed
from orlop_build_dockerfile.grpc import Code
from orlop_build_dockerfile.session.client import ClientSession

__all__ = ["Sessions"]

_WAIT = 5.0  # seconds, the same as in BuildKit


class Sessions:
    def __init__(self) -> None:
        self._open: dict[str, ClientSession] = {}
        self._changed = trio.lowlevel.ParkingLot()

    def __len__(self) -> int:
        return len(self._open)

    async def run(self, session: ClientSession, early: bytes = b"") -> None:
        """Serve a session until it ends. Raises BuildFailed if its id is in use."""
        if session.id in self._open:
            raise BuildFailed(f"session {session.id} is open already", code=Code.ALREADY_EXISTS)
        self._open[session.id] = session
        self._changed.unpark_all()
        try:
            await session.run(early)
        finally:
            del self._open[session.id]

    async def get(self, id: str) -> ClientSession:
        """Wait for a session. Raises BuildFailed if it does not open in time."""
        with trio.move_on_after(_WAIT):
            while id not in self._open:
                await self._changed.park()
            return self._open[id]
        raise BuildFailed(f"no active session for {id}: context deadline exceeded", code=Code.NOT_FOUND)
