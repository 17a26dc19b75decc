"""The daemon's client of one monitor. It launches or adopts the monitor, sends requests, receives events, and waits for the
monitor's end.

A client has one control connection and a pidfd. If the daemon dies, the container is not affected, and the next daemon makes
a new client with `MonitorClient.adopt`. Every call has a deadline, because a monitor may be stopped or stuck (see
`watchdog`). A monitor that does not answer delays no other container.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence

import trio

from orlop_monitor import records
from orlop_monitor.protocol import (
    LOG_OPENING,
    Attach,
    Event,
    Exec,
    Failed,
    Forward,
    Launch,
    MonitorRecord,
    Reply,
    Request,
    Resize,
    Resolve,
    Serve,
    Signal,
    Start,
    Started,
    State,
    Status,
    Subscribe,
)
from orlop_sdk import DeadlineExceeded, DriverError, Unavailable, linux

from .control import Body, Control, Disconnected, connect, encode, receive
from .watchdog import PATIENCE, MonitorWatchdog
from .zygote import Zygote

__all__ = ["MonitorClient", "MonitorFailed", "StartFailed"]

log = logging.getLogger("orlop.processes")

_DEADLINE = PATIENCE
_LAUNCH_DEADLINE = 30.0
_LOG_DEADLINE = 3 * LOG_OPENING  # the monitor reports that a log driver hangs; on a busy machine, the report takes longer
_WRONG_ANSWER = "the monitor's answer has the wrong type"
_FDS_A_MESSAGE = 200  # file descriptors in one message; the kernel allows 253 (SCM_MAX_FD)


class MonitorFailed(DriverError):
    """The monitor refused a request. `failed` contains the details."""

    def __init__(self, what: str, failed: Failed) -> None:
        super().__init__(f"cannot {what}: {failed.message}")
        self.failed = failed


class StartFailed(MonitorFailed):
    """A container or an exec did not start. `failed` contains the runtime's output, which the runtime's driver can
    explain."""


class MonitorClient:
    """`on_event(event)` is called for `Exited`, `ExecExited` and `Oom`, in order, from a task of `nursery`, and never before
    the start. `on_resumed(status, asked_at)` is called after a broken connection has been opened again."""

    def __init__(self, run_dir: str, pid: int, pidfd: int, on_event: Callable[[Event], None]) -> None:
        self.run_dir = run_dir
        self.pid = pid
        self.on_event = on_event
        self.on_resumed: Callable[[Status, float], None] = lambda status, asked_at: None
        self._pidfd = pidfd
        self._netns = self._userns = -1
        self._control: Control | None = None
        self._watchdog: MonitorWatchdog | None = None
        self._dead = trio.Event()
        self._heard = trio.Event()
        self._ended = trio.Event()

    # --- launch and adopt -------------------------------------------------------------------------------------------

    @classmethod
    async def launch(
        cls,
        zygote: Zygote,
        launch: Launch,
        nursery: trio.Nursery,
        on_event: Callable[[Event], None] = lambda _: None,
        fds: Sequence[int] = (),
    ) -> tuple[MonitorClient, Status]:
        """Fork a monitor and have it build the sandbox. Creates the run directory if necessary, and removes an earlier run's
        records from it. `fds` are file descriptors to send with the request; they still belong to the caller. Raises
        `MonitorFailed` when the sandbox cannot be built; in this case the monitor has ended already."""
        os.makedirs(launch.run_dir, mode=0o700, exist_ok=True)
        records.clear(launch.run_dir)
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                pid = await zygote.spawn("monitor", theirs, launch.run_dir)
            monitor = cls(launch.run_dir, pid, os.pidfd_open(pid), on_event)
        except BaseException:
            ours.close()
            raise
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        monitor._begin(stream, nursery)
        try:
            what = f"launch container {launch.id}"
            # This does not use `MonitorWatchdog.wait`, because a monitor that builds a sandbox answers no other requests
            # meanwhile.
            answer = await monitor._ask_patiently(what, lambda n: Request(n, launch), _LAUNCH_DEADLINE, fds)
            status = cls._as_status(what, answer)
        except BaseException:
            monitor.kill()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _DEADLINE):
                await monitor.ended()
            raise
        monitor._netns, monitor._userns = status.netns_fd, status.userns_fd
        return monitor, status

    @classmethod
    async def adopt(cls, run_dir: str, nursery: trio.Nursery, on_event: Callable[[Event], None]) -> MonitorClient | None:
        """Connect to the running monitor of a run that another daemon started. Returns None if the monitor is dead. The
        monitor is identified by pid *and* start time, because the pid may have been reused. Only `subscribe` shows whether
        the monitor answers. Raises `Unavailable` if the monitor is running but refuses connections."""
        record = records.read_monitor(run_dir) or await cls._who_listens(run_dir)
        if record is None:
            return None
        try:
            pidfd = os.pidfd_open(record.pid)
        except ProcessLookupError:
            return None
        try:
            stream = await cls._connect_to(run_dir, record, pidfd)
        except BaseException:
            os.close(pidfd)
            raise
        if stream is None:
            os.close(pidfd)
            return None
        monitor = cls(run_dir, record.pid, pidfd, on_event)
        monitor._begin(stream, nursery)
        return monitor

    @staticmethod
    async def _who_listens(run_dir: str) -> MonitorRecord | None:
        """Find the monitor's process if its record cannot be read. The monitor is the process at the other end of the
        socket, because only Orlop's monitors can create a socket in this directory."""
        if not os.path.lexists(os.path.join(run_dir, records.SOCKET)):
            return None
        try:
            async with await connect(run_dir) as stream:
                pid, _, _ = linux.peer_credentials(stream.socket)  # type: ignore[arg-type]
            return MonitorRecord(pid, linux.process_start_time(pid), "")
        except OSError:
            return None

    @staticmethod
    async def _connect_to(run_dir: str, record: MonitorRecord, pidfd: int) -> trio.SocketStream | None:
        try:
            if linux.is_process(record.pid, record.start_time):
                return await connect(run_dir)
        except OSError as error:
            with trio.move_on_after(1):  # a monitor that is about to end accepts no connections, so wait for its end
                await trio.lowlevel.wait_readable(pidfd)
                return None
            raise Unavailable(f"cannot adopt monitor {record.pid}: {error}") from error
        return None

    def _begin(self, stream: trio.SocketStream, nursery: trio.Nursery) -> None:
        self._watchdog = MonitorWatchdog(self.pid, self._ping, nursery)
        self._control = Control(stream, self._event, self._watchdog.heard)
        nursery.start_soon(self._listen, self._control)
        nursery.start_soon(self._watch)

    def _event(self, event: Event) -> None:
        try:
            self.on_event(event)
        except Exception:
            # A bug in the listener; the next event may be handled
            log.exception("cannot handle an event of monitor %d", self.pid)

    async def _listen(self, control: Control) -> None:
        """Read until the monitor ends. If the monitor is still running but has closed the connection (because the daemon
        read too slowly), connect again."""
        try:
            again = False
            while True:
                async with trio.open_nursery() as nursery:
                    if again:
                        nursery.start_soon(self._resume, control)
                    again = True
                    await control.run()
                with trio.move_on_after(1):
                    await self._dead.wait()
                if self._dead.is_set():
                    return
                try:
                    stream = await connect(self.run_dir)
                except OSError:
                    continue
                assert self._watchdog
                control = self._control = Control(stream, self._event, self._watchdog.heard)
        finally:
            self._heard.set()

    async def _resume(self, control: Control) -> None:
        """Subscribe again, and fetch the status. If events were missed meanwhile, the monitor repeats only the
        container's exit."""
        asked_at = trio.current_time()
        try:
            status = await control.ask(lambda n: Request(n, Subscribe()))
        except Disconnected:
            return  # `_listen` notices the end too
        if isinstance(status, Status):
            try:
                self.on_resumed(status, asked_at)
            except Exception:
                log.exception("cannot handle the state of monitor %d", self.pid)

    async def _watch(self) -> None:
        try:
            await trio.lowlevel.wait_readable(self._pidfd)
            self._dead.set()
            with trio.move_on_after(1):
                await self._heard.wait()  # the last events must be delivered before
            self._ended.set()
        finally:
            os.close(self._pidfd)
            self._pidfd = -1

    # --- requests ---------------------------------------------------------------------------------------------------

    @property
    def silent(self) -> bool:
        """Whether the monitor is running but does not answer. Requests to such a monitor fail immediately, until a message
        from it arrives."""
        return self._watchdog is not None and self._watchdog.silent and not self.is_over

    def suspect(self, what: str) -> Unavailable:
        """Called when an adopted monitor has not answered `subscribe` for too long. From now on it is treated as silent.
        Returns the error to report."""
        assert self._watchdog
        self._watchdog.suspect(math.inf)
        return self._watchdog.complaint(what)

    @property
    def is_stopped(self) -> bool:
        """Whether a signal or a debugger has stopped the process, so that it cannot answer."""
        return linux.is_stopped(self.pid)

    async def _ping(self) -> None:
        assert self._control
        try:
            await self._control.ask(lambda n: Request(n, State()))
        except Disconnected:
            pass  # the monitor may be ending, or `_listen` reconnects

    async def _ask(
        self,
        what: str,
        request: Callable[[int], Request],
        seconds: float = _DEADLINE,
        fds: Sequence[int] = (),
        busy: float = 0.0,
    ) -> Body:
        assert self._watchdog
        return await self._watchdog.wait(what, lambda: self._ask_patiently(what, request, seconds, fds), busy)

    async def _ask_patiently(
        self, what: str, request: Callable[[int], Request], seconds: float, fds: Sequence[int] = ()
    ) -> Body:
        """Wait until the deadline, even if the monitor answers no other request in this time."""
        assert self._control and self._watchdog
        asked_at = trio.current_time()
        with trio.move_on_after(seconds):
            try:
                return await self._control.ask(request, fds)
            except Disconnected:
                raise Unavailable(f"cannot {what}: its monitor (pid {self.pid}) ended") from None
        self._watchdog.suspect(asked_at)
        raise DeadlineExceeded(f"cannot {what}: its monitor (pid {self.pid}) gave no answer in {seconds:g} s")

    async def _status(
        self, what: str, request: Callable[[int], Request], seconds: float = _DEADLINE, fds: Sequence[int] = ()
    ) -> Status:
        return self._as_status(what, await self._ask(what, request, seconds, fds))

    @staticmethod
    def _as_status(what: str, answer: Body) -> Status:
        if isinstance(answer, Status):
            return answer
        raise MonitorFailed(what, answer if isinstance(answer, Failed) else Failed(_WRONG_ANSWER))

    async def subscribe(self) -> Status:
        """Subscribe to the events of an adopted monitor, and return its status. Waits without a deadline until the
        monitor answers (see `suspect`). Raises `Unavailable` when the monitor has ended."""
        what = "subscribe to the container's events"
        answer = await self._ask_patiently(what, lambda n: Request(n, Subscribe()), math.inf)
        status = self._as_status(what, answer)
        self._netns, self._userns = status.netns_fd, status.userns_fd
        return status

    async def state(self) -> Status:
        """The container's current status."""
        return await self._status("ask for the container's state", lambda n: Request(n, State()))

    async def start(self, start: Start) -> Started:
        """Run the container. Raises `StartFailed` when the runtime cannot run the container; in this case the monitor has
        already cleaned up and ended."""
        seconds = _LOG_DEADLINE + start.run.timeout + start.delete.timeout + _DEADLINE
        answer = await self._ask("start the container", lambda n: Request(n, start), seconds, busy=_LOG_DEADLINE)
        if isinstance(answer, Started):
            return answer
        with trio.move_on_after(_DEADLINE):
            await self.ended()
        raise StartFailed("start the container", answer if isinstance(answer, Failed) else Failed(_WRONG_ANSWER))

    async def serve(self, forwards: Sequence[Forward], sockets: Sequence[socket.socket]) -> None:
        """Make the monitor serve these listeners. The caller still closes its sockets, because the monitor has its own
        copies."""
        for at in range(0, len(forwards), _FDS_A_MESSAGE):
            fds = [sock.fileno() for sock in sockets[at : at + _FDS_A_MESSAGE]]
            await self._serve_part(Serve(tuple(forwards[at : at + _FDS_A_MESSAGE])), fds)

    async def redirect(self, moved: Mapping[str, str]) -> None:
        """Make the monitor's listeners for an address (a key of `moved`) forward to another address (the value), or close
        them (""). Raises `Unavailable` when the monitor was started by an older daemon and does not support this request."""
        request = Serve((), tuple(moved.items()))
        status = await self._status("redirect the container's ports", lambda n: Request(n, request))
        if status.version < 2:
            raise Unavailable(
                "ports on loopback keep their target until the next start of the container: "
                f"an older version of Orlop started monitor {self.pid}"
            )

    async def _serve_part(self, part: Serve, fds: Sequence[int]) -> None:
        await self._status("serve the container's ports", lambda n: Request(n, part), fds=fds)

    async def resolve(self, path: str) -> None:
        """Make the monitor answer DNS queries at 127.0.0.11, from the tables listed in the file at `path`."""
        await self._status("answer names", lambda n: Request(n, Resolve(path)))

    async def resize(self, rows: int, columns: int, exec_id: str = "") -> None:
        await self._status("resize", lambda n: Request(n, Resize(rows, columns, exec_id)))

    async def signal(self, signum: int, exec_id: str = "") -> None:
        """Send a signal to the container's init process, or to an exec's process. Raises `MonitorFailed` if the process is
        not running."""
        await self._status("send a signal", lambda n: Request(n, Signal(signum, exec_id)))

    async def attach(self, attach: Attach) -> trio.SocketStream:
        """Open a raw duplex stream to the container's standard streams (see `orlop_monitor.protocol`). Attach before the
        start to miss no output. The caller closes the stream. The monitor may end before the stream is read, so a broken
        stream means end of file."""
        stream, answer = await self._stream("attach to the container", Request(1, attach), _DEADLINE)
        if isinstance(answer, Status):
            return stream
        await stream.aclose()
        raise MonitorFailed("attach to the container", answer if isinstance(answer, Failed) else Failed(_WRONG_ANSWER))

    async def exec(self, request: Exec) -> tuple[Started, trio.SocketStream | None]:
        """Run another process in the container. Returns its stream if `request.attach` is set. Raises `StartFailed` when the
        runtime cannot start the process."""
        seconds, stream = request.run.timeout + _DEADLINE, None
        if request.attach is None:
            answer = await self._ask("run the exec", lambda n: Request(n, request), seconds)
        else:
            stream, answer = await self._stream("run the exec", Request(1, request), seconds)
        if isinstance(answer, Started):
            return answer, stream
        if stream:
            await stream.aclose()
        raise StartFailed("run the exec", answer if isinstance(answer, Failed) else Failed(_WRONG_ANSWER))

    async def _stream(self, what: str, request: Request, seconds: float) -> tuple[trio.SocketStream, Body]:
        """Open a separate connection, send its first request and return the answer. The connection is a raw stream after
        that."""
        assert self._watchdog
        return await self._watchdog.wait(what, lambda: self._stream_patiently(what, request, seconds))

    async def _stream_patiently(self, what: str, request: Request, seconds: float) -> tuple[trio.SocketStream, Body]:
        stream = None
        try:
            with trio.move_on_after(seconds):
                stream = await connect(self.run_dir)
                await stream.send_all(encode(request))
                message = await receive(stream)
                if isinstance(message, Reply):
                    return stream, message.body
                raise Disconnected
            raise DeadlineExceeded(f"cannot {what}: its monitor (pid {self.pid}) gave no answer in {seconds:g} s")
        except BaseException as error:
            if stream:
                stream.socket.close()
            if isinstance(error, (OSError, Disconnected, trio.BrokenResourceError)):
                raise Unavailable(f"cannot {what}: its monitor (pid {self.pid}) ended") from error
            raise

    # --- the process ------------------------------------------------------------------------------------------------

    @property
    def netns_path(self) -> str:
        """The path of the container's network namespace, valid while the monitor runs; "" for the host's namespace."""
        return f"/proc/{self.pid}/fd/{self._netns}" if self._netns >= 0 else ""

    @property
    def userns_path(self) -> str:
        """Like `netns_path`, for the user namespace."""
        return f"/proc/{self.pid}/fd/{self._userns}" if self._userns >= 0 else ""

    @property
    def is_over(self) -> bool:
        return self._dead.is_set()

    async def ended(self) -> None:
        """Wait until the monitor has ended and all its events have been delivered."""
        await self._ended.wait()

    def kill(self) -> None:
        """Send SIGKILL to the monitor. The zygote then kills the container."""
        if self._pidfd >= 0:
            try:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass
