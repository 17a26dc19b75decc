"""Starts the builder process when a client needs it, ends the process when no client needs it any more, and cleans up.

A supervisor has the process, its connection, and its workspace in the engine. When the process ends for any reason, its
steps are killed, its active snapshots are removed and its bases are released. Only then another process may start, because
the processes share the directory of the build cache.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from subprocess import Popen
from typing import Any

import trio

from orlop_build_dockerfile import directories
from orlop_build_dockerfile.cache import strays
from orlop_build_dockerfile.contracts import Authorization, CacheRecord, Client, Pruned, Settings
from orlop_build_dockerfile.keys import BuildKeys
from orlop_engine.building.scope import Scope
from orlop_engine.commands import spawn_detached
from orlop_engine.containers.emulation import emulated
from orlop_engine.engine import Engine
from orlop_engine.images import platforms
from orlop_kernel import __version__
from orlop_kernel.http.messages import RawStream
from orlop_kernel.kinds import Context
from orlop_sdk import Conflict, DeadlineExceeded, OrlopError, Unavailable

from . import messages
from .bodies import BuildAnswer
from .link import Link
from .policies import history_limits, policies
from .requests import Requests

__all__ = ["IDLE", "PROGRAM", "Supervisor"]

log = logging.getLogger("orlop.build")

PROGRAM = (sys.executable, "-I", "-m", "orlop_build_dockerfile")
IDLE = 60.0  # seconds without clients until the process is ended
_START = 60.0  # seconds for the process to answer, enough for a cold start on a busy machine
_DRAIN = 5.0  # seconds for clients to receive the results of their builds
_END = 15.0
_REFUSING = 2.0  # seconds in which a process whose builder cannot be opened refuses clients
_LOG_LIMIT = 1 << 20
_PIECE = 64 << 10
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Supervisor:
    """Runs at most one builder process at a time, for the clients of one domain. `scope` contains the restrictions of these
    clients."""

    def __init__(self, context: Context, domain: str = "") -> None:
        self._context, self._domain = context, domain
        self.scope = Scope(domain)
        self._engine: Engine = context.services["engine"].engine
        self._process: _Process | None = None
        self._starting = trio.Lock()
        self._closed = False

    # --- for front ends -----------------------------------------------------------------------------------------------

    async def serve(self, kind: str, headers: Mapping[str, str], peer: str, stream: RawStream) -> None:
        """Pass the connection to the builder process, and wait for the end of the connection."""
        async with self._used() as process:
            shared = stream.share()
            if shared is not None:
                fd, early = shared
                try:
                    await process.serve(Client(kind=kind, headers=headers, early=early, peer=peer), fd)
                finally:
                    os.close(fd)
                return
            ours, theirs = socket.socketpair()
            with theirs:
                ours.setblocking(False)
                end = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
                async with end, trio.open_nursery() as nursery:
                    nursery.start_soon(_splice, stream, end)
                    await process.serve(Client(kind=kind, headers=headers, peer=peer), theirs.fileno())
                    nursery.cancel_scope.cancel()

    async def build(
        self, headers: Mapping[str, str], query: Mapping[str, Sequence[str]], peer: str, body: AsyncGenerator[bytes, None]
    ) -> BuildAnswer:
        """`POST /build`. Returns when the answer has begun. Raises the error of a build that is refused before this."""
        client = Client(kind="build", headers=headers, peer=peer, query=dict(query))

        async def serve(connection: int) -> None:
            async with self._used() as process:
                await process.serve(client, connection)

        answer = BuildAnswer(body, serve)
        self._context.nursery.start_soon(answer.run)
        await answer.ready()
        return answer

    async def usage(self) -> Sequence[CacheRecord]:
        """The records of the build cache. Starts no process if the cache does not exist."""
        if not self._has_cache():
            return ()
        async with self._used() as process:
            found: Sequence[CacheRecord] = await process.link.call(messages.ListCache())
            return found

    async def prune(
        self, filters: Mapping[str, Sequence[str]], *, everything: bool, reserved: int, maximum: int, free: int
    ) -> Pruned:
        if not self._has_cache():
            return Pruned((), 0)
        async with self._used() as process:
            question = messages.PruneCache(filters, everything, reserved, maximum, free)
            found: Pruned = await process.link.call(question)
            return found

    async def cancel(self, build: str) -> None:
        if self._process is not None:
            await self._process.link.call(messages.CancelBuild(build))

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def _has_cache(self) -> bool:
        return self._process is not None or os.path.isdir(self._root)

    async def close(self) -> None:
        """End the process and all builds. No process is started after that."""
        self._closed = True
        if self._process is not None:
            process = self._process
            await process.drain()
            await process.ended.wait()

    # --- the process --------------------------------------------------------------------------------------------------

    @property
    def _root(self) -> str:
        return directories.root(self._context.config, self._domain)

    @asynccontextmanager
    async def _used(self) -> AsyncIterator[_Process]:
        """The process, which does not become idle until the end of the block. Starts a process if there is none."""
        async with self._starting:
            process = self._process
            if process is not None and process.ending:
                await process.ended.wait()
                process = None
            if process is None:
                if self._closed:
                    raise Unavailable("cannot build: the daemon is shutting down")
                process = await self._start()
            else:
                process.users += 1
        try:
            yield process
        finally:
            process.users -= 1
            process.idle_since = trio.current_time()
            process.released.set()

    async def _start(self) -> _Process:
        run = directories.runtime(self._context.config, self._domain)
        process = _Process(self._engine, self._spawn, self.scope, (self._root, run))
        process.users = 1  # the caller is a user, so that the process does not count as idle while it starts
        self._context.nursery.start_soon(self._supervise, process)
        try:
            with trio.fail_after(_START):
                process.failure = await process.link.call(messages.Begin(self._settings(run)))
            if process.failure:
                process.failed_at = trio.current_time()
                process.released.set()
        except BaseException as error:
            process.kill()
            with trio.move_on_after(_END, shield=True):
                await process.ended.wait()
            if isinstance(error, trio.TooSlowError):
                raise DeadlineExceeded(f"cannot start the builder: no answer in {_START:g} s") from None
            if isinstance(error, Unavailable):
                raise Unavailable(f"cannot start the builder: its process has ended; see {self._log}") from error
            raise
        if process.failure:
            log.error("builds are refused: %s", process.failure, extra={"throttle": "builds are refused"})
        return process

    @property
    def _log(self) -> str:
        return os.path.join(self._context.config.exec_root, "builder.log")

    def _spawn(self, theirs: socket.socket) -> Popen[bytes]:
        try:
            stderr = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:  # for example a full disk: clients must get the error of the process, not of its log
            log.warning("cannot write the builder's log %s: %s", self._log, error.strerror)
            stderr = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        try:
            if os.fstat(stderr).st_size > _LOG_LIMIT:
                os.ftruncate(stderr, 0)
            env = {"PATH": os.environ.get("PATH", _PATH), "LC_ALL": "C.UTF-8", "HOME": self._root}
            return spawn_detached([*PROGRAM, str(theirs.fileno())], env=env, pass_fds=[theirs.fileno()], stderr=stderr)
        finally:
            os.close(stderr)

    def _settings(self, run: str) -> Settings:
        config, engine = self._context.config, self._engine
        own = config.part(BuildKeys).builder
        given = own.entitlements
        allowed = {
            "network.host": given.network_host,
            "security.insecure": given.security_insecure,
            "device": given.device,
        }
        proxies = engine.config.proxies
        gateways = engine.networks.host_gateways()
        restricted = self.scope.is_restricted or bool(self._domain)
        history_age, history_entries = history_limits(own.history)
        return Settings(
            root=self._root,
            runtime=run,
            version=__version__,
            storage=engine.storage_name,
            platforms=tuple(map(str, (platforms.default(), *emulated()))),
            proxies={
                name: value
                for name, value in (
                    ("HTTP_PROXY", proxies.http_proxy),
                    ("HTTPS_PROXY", proxies.https_proxy),
                    ("NO_PROXY", proxies.no_proxy),
                )
                if value
            },
            host_gateway=gateways[0] if gateways and not restricted else "",
            collect=own.gc.enabled,
            policies=policies(own.gc, config.data_root) if own.gc.enabled else (),
            entitlements=tuple(name for name, value in allowed.items() if value and not restricted),
            public_only=restricted,
            history_age=history_age,
            history_entries=history_entries,
        )

    async def _supervise(self, process: _Process) -> None:
        self._process = process
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end_when_idle, process)
                await process.run()
                nursery.cancel_scope.cancel()
            if process.was_killed:
                await self._sweep()
        except Exception:
            log.exception("the builder process ended unexpectedly")
        finally:
            self._process = None
            process.ended.set()

    async def tidy(self) -> None:
        """Remove leftovers of builds. If a builder process is running, do nothing: it removed leftovers when it started."""
        async with self._starting:
            if self._process is None and not self._closed:
                await self._sweep()

    async def without_process(self, work: Callable[[], None]) -> None:
        """Do blocking work while no process runs. Raises `Conflict` if a process is running."""
        async with self._starting:
            if self._process is not None:
                raise Conflict("cannot change the builder's directories: a build may be running")
            await trio.to_thread.run_sync(work)

    async def _sweep(self) -> None:
        run = directories.runtime(self._context.config, self._domain)
        try:
            found = await trio.to_thread.run_sync(strays.sweep, self._root, run)
            if found.is_known:
                await self._engine.building.discard(self._domain, found.snapshots)
        except* OSError as failures:
            for error in failures.exceptions:
                log.error("cannot remove leftovers of a build: %s", error)

    async def _end_when_idle(self, process: _Process) -> None:
        while True:
            process.released = trio.Event()
            if process.users:
                # Clients that stay connected must not delay the next builder, which may be able to start
                with trio.move_on_at(process.failed_at + _REFUSING):
                    await process.released.wait()
                if trio.current_time() < process.failed_at + _REFUSING:
                    continue
            left = 0.0 if process.failure else process.idle_since + IDLE - trio.current_time()
            if left <= 0:
                process.ending = True
                process.link.close()
                return
            await trio.sleep(left)


class _Process:
    """A builder process. `ending`: its connection is closed, or will be closed soon. `failure`: the reason why the builder
    could not be opened; until the process ends a moment later, it refuses its clients."""

    def __init__(self, engine: Engine, spawn: Any, scope: Scope, directories: Sequence[str]) -> None:
        ours, theirs = socket.socketpair()
        try:
            self._popen: Popen[bytes] = spawn(theirs)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._workspace = engine.building.workspace(scope)
        self.link = Link(ours, Requests(self._workspace, directories, self._authorize).handle)
        self.users = 0
        self.ending = False
        self.failure = ""
        self.failed_at = math.inf
        self.was_killed = False
        self.idle_since = trio.current_time()
        self.released = trio.Event()
        self.ended = trio.Event()
        _be_killed_first(self._popen.pid)

    async def serve(self, client: Client, connection: int) -> None:
        await self.link.call(messages.Serve(client), (connection,))

    async def drain(self) -> None:
        """End the builds with a message to their clients, then the process."""

        async def ask(told: trio.Event) -> None:
            with suppress(OrlopError):  # the process has ended, or does not answer yet
                await self.link.call(messages.Drain("the daemon is shutting down"))
            told.set()

        told = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, told)
            with trio.move_on_after(_DRAIN):
                await told.wait()
            self.link.close()  # `ask` ends when the connection is closed

    async def _authorize(self, question: messages.Authorize) -> Authorization:
        found: Authorization = await self.link.call(question)
        return found

    def kill(self) -> None:
        self._popen.send_signal(signal.SIGKILL)

    async def run(self) -> None:
        """Run the process until it has ended and all its resources are removed."""
        try:
            await self.link.run()
        finally:
            self.ending = True
            with trio.move_on_after(_END, shield=True):
                await self._reap()
            await self._workspace.aclose()

    async def _reap(self) -> None:
        """Called after the end of the connection. Wait until the process has ended; kill it if this takes too long."""
        pidfd = os.pidfd_open(self._popen.pid)
        try:
            with trio.move_on_after(0 if self.users else _END / 2):
                await trio.lowlevel.wait_readable(pidfd)
            self.kill()
            await trio.lowlevel.wait_readable(pidfd)
            status = self._popen.wait()
        finally:
            os.close(pidfd)
        if status and not self.failure:
            self.was_killed = True
            log.error(
                "the builder process (pid %d) ended with status %d; the builds in it have failed", self._popen.pid, status
            )


def _be_killed_first(pid: int) -> None:
    """Raise the OOM score of the builder, which it has inherited from the daemon, so that the OOM killer chooses the builder
    before the daemon."""
    with suppress(OSError), open(f"/proc/{pid}/oom_score_adj", "r+") as file:
        if int(file.read()) < 0:
            file.seek(0)
            file.write("0")


async def _splice(client: RawStream, end: trio.SocketStream) -> None:
    """Copy between a client and the builder's end, for connections that only this process can read (TLS)."""

    async def inwards() -> None:
        while data := await client.receive_some(_PIECE):
            await end.send_all(data)
        await end.send_eof()

    async def outwards() -> None:
        while data := await end.receive_some(_PIECE):
            await client.send_all(data)
        await client.send_eof()

    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        async with trio.open_nursery(strict_exception_groups=False) as nursery:
            nursery.start_soon(inwards)
            nursery.start_soon(outwards)
