"""Answers the clients of a builder that could not be opened, for example because the disk is full.

Clients of BuildKit's protocol show the error of a call, but not the reason why a connection was closed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn

import trio

from orlop_build_dockerfile.contracts import Authorization, CacheRecord, Challenge, Client, Pruned
from orlop_build_dockerfile.grpc import Call, Code, Connection, RpcError
from orlop_sdk import DriverError

__all__ = ["Unopened", "hide_paths"]


def hide_paths(error: BaseException) -> None:
    """Remove the paths of the host from the error, and from all errors of a group. Restricted clients must not see paths."""
    if isinstance(error, OSError):
        error.filename = error.filename2 = None
    for inner in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
        hide_paths(inner)


class Unopened:
    """Implements `contracts.Builder`: refuses everything with the reason."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    async def serve(self, client: Client, connection: trio.SocketStream) -> None:
        if client.kind == "build":
            self._refuse()
        if client.kind == "grpc":
            await Connection(connection, others=self._refuse_call).run(client.early)

    async def _refuse_call(self, _: Call) -> None:
        raise RpcError(Code.UNKNOWN, self._reason)

    async def usage(self) -> Sequence[CacheRecord]:
        self._refuse()

    async def prune(
        self, filters: Mapping[str, Sequence[str]], *, everything: bool, reserved: int, maximum: int, free: int
    ) -> Pruned:
        self._refuse()

    async def authorize(self, session: str, host: str, challenge: Challenge) -> Authorization:
        self._refuse()

    async def drain(self, reason: str) -> None:
        """There are no builds."""

    async def cancel(self, build: str) -> None:
        """There are no builds."""

    def _refuse(self) -> NoReturn:
        raise DriverError(self._reason)
