"""The daemon's client of the zygote. It starts the zygote early, and restarts it when it dies. When the daemon ends, the
zygote continues to run.

The zygote runs as long as it has children. The daemon keeps a control socket open; when this socket is closed, the zygote
knows that the daemon has ended.
"""

from __future__ import annotations

import logging
import os
import resource
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress

import msgspec
import trio

from orlop_engine.commands import spawn_detached
from orlop_monitor.forking import ENTRIES, MESSAGE_LIMIT, Fork, Forked
from orlop_sdk import DeadlineExceeded, Unavailable

__all__ = ["Zygote"]

log = logging.getLogger("orlop.processes")

_DEADLINE = 20.0  # seconds; enough for a cold start on a busy machine (a fork takes 0.4 ms)
_RESTART_PAUSE = (0.05, 5.0)
_LOG_LIMIT = 1 << 20
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Forked)


def _open_log(exec_root: str) -> int:
    """Open the log for tracebacks of the zygote and the monitors. They do not inherit the daemon's standard error, because
    they then keep it open after the daemon's end."""
    path = os.path.join(exec_root, "monitors.log")
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    if os.fstat(fd).st_size > _LOG_LIMIT:
        os.ftruncate(fd, 0)
    return fd


@contextmanager
def closing_pidfd(pid: int) -> Iterator[int]:
    pidfd = os.pidfd_open(pid)
    try:
        yield pidfd
    finally:
        os.close(pidfd)


class Zygote:
    """Use as `async with Zygote.start(...)`. `spawn` may be called immediately. It waits until the zygote has imported its
    modules."""

    def __init__(self, exec_root: str, preload: Sequence[str]) -> None:
        self._exec_root = exec_root
        self._preload = tuple(preload)
        self._control: trio.socket.SocketType | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._turn = trio.Lock()
        self._ready = trio.Event()
        self._serial = 0
        self._limits = {kind: resource.getrlimit(kind) for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE)}
        with open("/proc/self/oom_score_adj") as file:
            self._oom_score = file.read()
        self._priority = os.getpriority(os.PRIO_PROCESS, 0)

    @classmethod
    @asynccontextmanager
    async def start(
        cls, exec_root: str, log_drivers: Sequence[str] = (), programs: Sequence[str] = ()
    ) -> AsyncIterator[Zygote]:
        """Start the zygote. It imports these log drivers, and keeps these runtimes (absolute paths) in memory (see
        `monitor.sealed`). Returns immediately, so the zygote imports its modules while the daemon imports other modules."""
        os.makedirs(exec_root, mode=0o711, exist_ok=True)
        zygote = cls(exec_root, (*log_drivers, *programs))
        zygote._spawn_process()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(zygote._keep)
            try:
                yield zygote
            finally:
                nursery.cancel_scope.cancel()
                await zygote.aclose()

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    def _spawn_process(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stderr = _open_log(self._exec_root)
        try:
            self._process = spawn_detached(
                [sys.executable, "-I", "-m", "orlop_monitor.zygote", str(theirs.fileno()), *self._preload],
                env={"PATH": os.environ.get("PATH", _PATH), "LC_ALL": "C.UTF-8"},
                pass_fds=[theirs.fileno()],
                stderr=stderr,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(stderr)
        self._stand_as_the_first()
        ours.setblocking(False)
        self._control = trio.socket.from_stdlib_socket(ours)
        self._ready.set()

    def _stand_as_the_first(self) -> None:
        """Before the zygote forks, set its resource limits, OOM score and priority to the values with which the daemon was
        started. Containers inherit them, and must not inherit the values that the daemon has set for itself since its
        start."""
        with suppress(OSError):  # the zygote has ended already, which `_keep` notices
            for kind, limits in self._limits.items():
                resource.prlimit(self.pid, kind, limits)
            with open(f"/proc/{self.pid}/oom_score_adj", "w") as file:
                file.write(self._oom_score)
            os.setpriority(os.PRIO_PROCESS, self.pid, self._priority)

    async def _keep(self) -> None:
        """Restart the zygote whenever it dies. The pause before a restart is doubled each time, unless the zygote has run
        for some time."""
        pause = _RESTART_PAUSE[0]
        while True:
            assert self._process
            began = trio.current_time()
            with closing_pidfd(self._process.pid) as pidfd:
                await trio.lowlevel.wait_readable(pidfd)
            status = self._process.wait()
            self._ready = trio.Event()
            self._drop_control()
            log.error("the zygote (pid %d) ended with status %d; running containers are not affected", self.pid, status)
            if trio.current_time() - began > _RESTART_PAUSE[1]:
                pause = _RESTART_PAUSE[0]
            while not self._ready.is_set():
                await trio.sleep(pause)
                pause = min(2 * pause, _RESTART_PAUSE[1])
                try:
                    self._spawn_process()
                except OSError as error:
                    log.error("cannot start the zygote: %s", error)

    def _drop_control(self) -> None:
        if self._control:
            self._control.close()
            self._control = None

    async def spawn(self, entry: str, connection: socket.socket, run_dir: str = "") -> int:
        """Fork a child that runs `entry` ("monitor" or "unpack") with this end of a connection. The caller still closes its
        copy of `connection`. Returns the child's pid. `run_dir` is the directory of a monitor's records: if the monitor dies
        without an exit record, the zygote kills its container and writes the record. Raises `Unavailable` when the zygote
        died or refused; a retry with a new connection may succeed."""
        assert entry in ENTRIES
        with trio.move_on_after(_DEADLINE):
            async with self._turn:
                return await self._exchange(entry, connection, run_dir)
        raise DeadlineExceeded(
            f"cannot start a {entry} process: no answer from the zygote (pid {self.pid}) in {_DEADLINE:g} s"
        )

    async def _exchange(self, entry: str, connection: socket.socket, run_dir: str) -> int:
        self._serial += 1
        message = _encode(Fork(self._serial, entry, run_dir))
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, connection.fileno().to_bytes(4, sys.byteorder))
        while True:
            await self._ready.wait()
            control = self._control
            assert control
            try:
                await control.sendmsg([message], [rights])
                break
            except (BrokenPipeError, ConnectionResetError, trio.ClosedResourceError):
                await trio.sleep(0.01)  # the zygote died without forking, which `_keep` will notice
        forked = await self._answer(control)
        if forked is None:
            raise Unavailable(f"cannot start a {entry} process: the zygote ended; try again")
        if not forked.pid:
            raise Unavailable(f"cannot start a {entry} process: {forked.error}")
        return forked.pid

    async def _answer(self, control: trio.socket.SocketType) -> Forked | None:
        while True:
            try:
                data = await control.recv(MESSAGE_LIMIT)
            except (OSError, trio.ClosedResourceError):
                return None
            if not data:
                return None
            forked = _decoder.decode(data)
            if forked.serial == self._serial:
                return forked
            # This answer belongs to a request whose caller was cancelled. The forked child sees that its connection is
            # closed, and ends.

    async def aclose(self) -> None:
        """Close the socket. The zygote ends when its last child ends. If it has no children, wait for its end."""
        self._drop_control()
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        with trio.move_on_after(0.25, shield=True), closing_pidfd(process.pid) as pidfd:
            await trio.lowlevel.wait_readable(pidfd)
            process.wait()
        if process.returncode is None:
            # The zygote outlives the daemon; setting this avoids the ResourceWarning of `subprocess`
            process.returncode = 0
