"""Builds in progress, by the names that their clients have chosen. The calls of a build arrive on several connections, in
any order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import trio

from orlop_build_dockerfile.contracts import BuildFailed, CacheTarget, Progress, Resources, Session
from orlop_build_dockerfile.control.progress import BuildProgress
from orlop_build_dockerfile.gateway.state import FrontendState
from orlop_build_dockerfile.grpc import Code
from orlop_build_dockerfile.session import Sessions

__all__ = ["ActiveBuild", "Builds"]

_WAIT = 5.0  # seconds to wait for the other calls of the same build, as in BuildKit
_LINGER = 10.0  # seconds to wait for a Status call after the end of its build


class ActiveBuild:
    """Implements `contracts.Build`. `frontend` is the frontend in the client, if the client has one."""

    session: Session

    def __init__(self, ref: str, sessions: Sessions) -> None:
        self.ref = ref
        self.reports = BuildProgress()
        self.progress: Progress = self.reports
        self.entitlements: Sequence[str] = ()
        self.resources = Resources()
        self.options: Mapping[str, str] = {}
        self.cache_exports: Sequence[CacheTarget] = ()
        self.cache_imports: Sequence[CacheTarget] = ()
        self.scope = trio.CancelScope()
        self.cancelled = BuildFailed("context canceled", code=Code.CANCELLED)
        """The error of the build when `scope` is cancelled."""
        self.over = False
        self.frontend = FrontendState(ref, self)
        self._sessions = sessions

    async def other_session(self, id: str) -> Session:
        return await self._sessions.get(id)


class Builds:
    """The builds in progress. Tasks in `nursery` remove builds that have ended."""

    def __init__(self, sessions: Sessions, nursery: trio.Nursery) -> None:
        self._sessions, self._nursery = sessions, nursery
        self._builds: dict[str, ActiveBuild] = {}
        self._changed = trio.lowlevel.ParkingLot()
        self._closed = ""

    def __len__(self) -> int:
        return len(self._builds)

    def __contains__(self, ref: str) -> bool:
        return ref in self._builds

    @asynccontextmanager
    async def open(self, ref: str) -> AsyncIterator[ActiveBuild]:
        """A new build, which ends with the `with` block. Its progress can be read for some seconds after the end."""
        if self._closed:
            raise BuildFailed(self._closed, code=Code.UNAVAILABLE)
        if not ref or (ref in self._builds and not self._builds[ref].over):
            raise BuildFailed(f"build {ref!r} exists already", code=Code.ALREADY_EXISTS)
        build = self._builds[ref] = ActiveBuild(ref, self._sessions)
        self._changed.unpark_all()
        try:
            yield build
        finally:
            build.over = True
            build.reports.close()
            self._nursery.start_soon(self._forget, build)

    async def _forget(self, build: ActiveBuild) -> None:
        await trio.sleep(_LINGER)
        if self._builds.get(build.ref) is build:
            del self._builds[build.ref]

    async def get(self, ref: str) -> ActiveBuild:
        """Wait for a build. Raises BuildFailed if the build does not begin in time."""
        with trio.move_on_after(_WAIT):
            while ref not in self._builds:
                await self._changed.park()
            return self._builds[ref]
        raise BuildFailed(f"no such job {ref[:100]}", code=Code.NOT_FOUND)

    def cancel(self, ref: str) -> None:
        """End a build. It is no error if the build does not exist."""
        if build := self._builds.get(ref):
            build.scope.cancel()

    def close(self, reason: str) -> None:
        """End all builds, and refuse new builds, with this reason."""
        self._closed = reason
        for build in self._builds.values():
            build.cancelled = BuildFailed(reason, code=Code.UNAVAILABLE)
            build.scope.cancel()
