"""Clients of a builder that could not be opened get the reason."""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import pytest
import trio

from orlop_build_dockerfile.contracts import Client
from orlop_build_dockerfile.daemon.unopened import Unopened, hide_paths
from orlop_build_dockerfile.grpc import Connection, RpcError
from orlop_kernel.failures import as_orlop_error
from orlop_sdk import DriverError

REASON = "cannot start the builder: No space left on device"


def client(kind: Literal["grpc", "session", "build"]) -> Client:
    return Client(kind=kind, headers={})


@asynccontextmanager
async def served() -> AsyncIterator[Connection]:
    ours, theirs = (trio.SocketStream(trio.socket.from_stdlib_socket(each)) for each in socket.socketpair())
    connection = Connection(ours, client=True)
    with trio.fail_after(50):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Unopened(REASON).serve, client("grpc"), theirs)
            nursery.start_soon(connection.run)
            yield connection
            connection.close()


def test_every_call_of_a_client_is_answered_with_the_reason() -> None:
    async def main() -> None:
        async with served() as connection:
            for path in ("/moby.buildkit.v1.Control/ListWorkers", "/any/Method"):
                with pytest.raises(RpcError) as raised:
                    await connection.unary(path, b"")
                assert raised.value.message == REASON

    trio.run(main)


def test_requests_of_the_daemon_fail_with_the_reason() -> None:
    async def main() -> None:
        refusing = Unopened(REASON)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
            for call in (
                refusing.usage(),
                refusing.prune({}, everything=True, reserved=0, maximum=0, free=0),
                refusing.serve(client("build"), stream),
            ):
                with pytest.raises(DriverError, match=REASON):
                    await call
            await refusing.serve(client("session"), stream)  # the daemon closes the connection
            await refusing.drain("the daemon is shutting down")
            await refusing.cancel("build")

    trio.run(main)


def test_paths_of_the_host_are_removed_from_errors() -> None:
    error = ExceptionGroup("", [ExceptionGroup("", [OSError(errno.ENOSPC, "No space left on device", "/secret")])])
    assert "/secret" in str(as_orlop_error(error, "cannot start the builder"))
    hide_paths(error)
    assert str(as_orlop_error(error, "cannot start the builder")) == REASON
