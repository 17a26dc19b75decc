"""The main function of the builder process. It makes a new mount namespace, and connects to the daemon.

`python -m orlop_build_dockerfile FD` calls `main`; FD is the socket. The process ends when the daemon closes the socket. If
the daemon is killed, the kernel closes the socket.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import trio

from orlop_build_dockerfile.contracts import Backend, Builder, Settings
from orlop_sdk import DriverError, linux

from . import messages
from .backend_client import BackendClient
from .link import Link, Report

__all__ = ["Open", "main"]

_END = 10  # seconds for builds to end after the end of the connection to the daemon

Open = Callable[[Settings, Backend], AbstractAsyncContextManager[Builder]]
"""Makes the builder. When the context exits, no build is running any more. The context is entered only once."""


def main(open_builder: Open) -> None:
    """Run the builder process."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    # A terminal sends SIGINT to the daemon and to this process. This process ignores it, because the daemon ends this
    # process
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sock = socket.socket(fileno=int(sys.argv[1]))
    sock.set_inheritable(False)
    linux.close_other_fds([sock.fileno()])
    linux.set_process_name("orlop-builder")
    if os.geteuid() == 0:
        linux.unshare(linux.CLONE_NEWNS)
        # Mounts of the host appear in this namespace, and mounts of this process do not appear on the host
        linux.mount("", "none", "/", ["rslave"])
    trio.run(_serve, sock, open_builder)


async def _serve(sock: socket.socket, open_builder: Open) -> None:
    process = _Process(open_builder)
    link = process.link = Link(sock, process.handle)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(process.hold)
        await link.run()
        signal.alarm(_END)  # kills this process if a build does not end in time
        nursery.cancel_scope.cancel()


class _Process:
    """Answers the daemon's calls, once the builder is open."""

    link: Link

    def __init__(self, open_builder: Open) -> None:
        self._open = open_builder
        self._settings: Settings | None = None
        self._begun, self._opened = trio.Event(), trio.Event()
        self._builder: Builder | None = None
        self._failure = ""

    async def hold(self) -> None:
        """Keep the builder open until the connection ends."""
        await self._begun.wait()
        assert self._settings is not None
        try:
            for directory in (self._settings.root, self._settings.runtime):
                os.makedirs(directory, mode=0o700, exist_ok=True)
                os.chmod(directory, 0o700)
            async with self._open(self._settings, BackendClient(self.link)) as self._builder:
                self._opened.set()
                await trio.sleep_forever()
        except Exception as error:
            if self._opened.is_set():
                raise
            # Imported here, because a builder that can be opened does not need these modules
            from orlop_kernel.failures import as_orlop_error

            from .unopened import Unopened, hide_paths

            if self._settings.public_only:
                hide_paths(error)
            self._failure = str(as_orlop_error(error, "cannot start the builder"))
            self._builder = Unopened(self._failure)
            self._opened.set()

    async def handle(self, question: messages.Question, fds: list[int], report: Report) -> Any:
        match question:
            case messages.Begin():
                self._settings = question.settings
                self._begun.set()
                await self._opened.wait()
                return self._failure
            case messages.Serve():
                connection = socket.socket(fileno=fds[0])
                connection.setblocking(False)
                stream = trio.SocketStream(trio.socket.from_stdlib_socket(connection))
                try:
                    return await self._running().serve(question.client, stream)
                finally:
                    await trio.aclose_forcefully(stream)
            case messages.ListCache():
                return await self._running().usage()
            case messages.PruneCache():
                return await self._running().prune(
                    question.filters,
                    everything=question.everything,
                    reserved=question.reserved,
                    maximum=question.maximum,
                    free=question.free,
                )
            case messages.Authorize():
                return await self._running().authorize(question.session, question.host, question.challenge)
            case messages.Drain():
                return await self._running().drain(question.reason)
            case messages.CancelBuild():
                return await self._running().cancel(question.id)
            case _:
                raise DriverError(f"the builder cannot answer {type(question).__name__}")

    def _running(self) -> Builder:
        assert self._builder is not None
        return self._builder
