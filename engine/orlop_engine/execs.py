"""Execs: additional processes in running containers. As in Docker, they are kept in memory only, and end with their
container.

The monitor runs the process and reports its exit. After a crash of the daemon, the process continues to run in its
container, but the next daemon has no exec object for it. `reconcile` handles exits that happened while the connection to the
monitor was broken.
"""

from __future__ import annotations

import logging
import os
import signal
from collections import deque
from contextlib import suppress
from typing import Any

import msgspec
import trio

from orlop_engine.calls import asked
from orlop_engine.commands import describe_timeout
from orlop_engine.containers import links, names
from orlop_engine.containers.attach import Detached, Duplex, parse_detach_keys, relay
from orlop_engine.containers.container import Container
from orlop_engine.containers.events import ContainerEvents
from orlop_engine.containers.exec_state import ExecState
from orlop_engine.containers.index import ContainerIndex
from orlop_engine.containers.paths import ContainerPaths
from orlop_engine.containers.ports import CurrentConfig
from orlop_engine.containers.runtime import task
from orlop_engine.containers.services import Drivers, KnownNetworks
from orlop_engine.containers.waits import decided
from orlop_engine.processes.monitor_client import StartFailed
from orlop_engine.types.containers import ExecConfig
from orlop_kernel.failures import as_orlop_error
from orlop_monitor.protocol import Attach, Exec, ExecExited, Status
from orlop_sdk import Conflict, DeadlineExceeded, Execution, InvalidParameter, NotFound, OrlopError, Outcome

from .terminals import rows_and_columns

__all__ = ["Execs"]

log = logging.getLogger("orlop.execs")

KEEP_ENDED = 600.0
KEEP_MOST = 1000
UNKNOWN_EXIT = 255  # also the exit code of a container whose monitor died without an exit record


class Execs:
    def __init__(
        self,
        *,
        containers: ContainerIndex,
        paths: ContainerPaths,
        events: ContainerEvents,
        networks: KnownNetworks,
        drivers: Drivers,
        current: CurrentConfig,
    ) -> None:
        self._containers, self._paths, self._events = containers, paths, events
        self._networks, self._drivers, self._current = networks, drivers, current
        self.index: dict[str, ExecState] = {}
        self._forgotten: deque[tuple[float, str]] = deque()
        """Ended execs, each with the time at which it may be removed. They are removed when another exec is created."""

    def get(self, exec_id: str) -> ExecState:
        found = self.index.get(exec_id)
        if found is None or found.container.id not in self._containers:
            raise NotFound(f"No such exec instance: {exec_id}")
        return found

    def create(self, container: Container, config: ExecConfig) -> str:
        command = [config.cmd] if isinstance(config.cmd, str) else list(config.cmd or ())
        if not command:
            raise InvalidParameter("No exec command specified")
        try:
            keys = parse_detach_keys(config.detach_keys)
        except InvalidParameter:
            raise InvalidParameter(f"Invalid escape keys ({config.detach_keys}) provided") from None
        self._check_running(container)
        if config.working_dir and not config.working_dir.startswith("/"):
            raise InvalidParameter(
                f"the working directory '{config.working_dir}' is invalid, it needs to be an absolute path"
            )
        self._forget_old()
        made = ExecState(names.new_id(), container, config, command, keys)
        self.index[made.id] = made
        container.execs.add(made.id)
        container.touch()
        self._publish(made, f"exec_create: {_shown(command)}")
        return made.id

    def _check_running(self, container: Container) -> None:
        state = container.record.state
        if state.paused:
            raise Conflict(f"Container {container.id} is paused, unpause the container before exec")
        if state.restarting:
            raise Conflict(f"Container {container.id} is restarting, wait until the container is running")
        if not state.running or container.run is None or container.run.monitor is None:
            raise Conflict(f"container {container.id} is not running")

    def _identity(self, container: Container, config: ExecConfig) -> Any:
        # Imported here, because the daemon's start does not need it
        from orlop_engine.containers.bundle import resolve_user

        assert container.run is not None and container.run.monitor is not None
        host = container.record.host_config
        user = config.user or container.record.config.user
        return resolve_user(self._paths, container, container.run.monitor, user, host.group_add or ())

    def _publish(self, state: ExecState, action: str, **more: str) -> None:
        self._events.publish(state.container, action, execID=state.id, **more)

    def _process(self, state: ExecState, console_size: list[int] | None) -> bytes:
        from orlop_engine.containers.bundle import bounding_set, process_input
        from orlop_engine.spec import build, capabilities, environment

        container, config = state.container, state.config
        record = container.record
        identity = self._identity(container, config)
        bounding = capabilities.available() if config.privileged else bounding_set(record.host_config)
        linked = links.environment(self._containers, self._networks, record)
        base = process_input(self._current.config, record, identity, state.command, bounding, linked)
        if container.unlisted:  # the caller has set all variables except HOME
            env = environment.with_home(config.env or (), identity.home)
        else:
            env = environment.container(
                record.config.hostname,
                config.tty,
                environment.merge(record.config.env or (), config.env or ()),
                identity.home,
                linked,
            )
        given = build.ProcessInput(
            args=state.command,
            env=env,
            cwd=config.working_dir or base.cwd,
            identity=identity,
            capabilities=bounding,
            terminal=config.tty,
            console_size=rows_and_columns(console_size or config.console_size),
            no_new_privileges=base.no_new_privileges,
            apparmor=base.apparmor,
            rlimits=base.rlimits,
            oom_score_adj=base.oom_score_adj,
        )
        return msgspec.json.encode(build.process(given))

    async def start(
        self, exec_id: str, *, detach: bool, console_size: list[int] | None, framed: bool | None = None
    ) -> tuple[ExecState, trio.SocketStream | None]:
        """Start an exec. Returns the stream, unless the exec is detached or has no stream. A failed start sets the exit
        code (126, 127) and raises `InvalidParameter` with the reason, which the caller writes to the client's stream.
        `framed`: as in `protocol.Attach`."""
        state = self.check_startable(exec_id)
        return state, await self._start(state, detach=detach, console_size=console_size, framed=framed)

    async def begin(self, exec_id: str, *, framed: bool) -> tuple[ExecState, trio.SocketStream | None]:
        """As `start`, for an exec in a container that no client can refer to."""
        state = self.index[exec_id]
        return state, await self._start(state, detach=False, console_size=None, framed=framed)

    async def _start(
        self, state: ExecState, *, detach: bool, console_size: list[int] | None, framed: bool | None
    ) -> trio.SocketStream | None:
        state.running = state.started = True
        run = state.container.run
        self._publish(state, f"exec_start: {_shown(state.command)}")
        wanted = None if detach else _attachment(state.config, framed)
        try:
            stream = await self._run(state, wanted, console_size)
        except BaseException as error:
            self._end(state, _start_failure_code(str(error)))
            if isinstance(error, Exception):
                raise as_orlop_error(error, "cannot run the exec") from error
            raise
        state.begun_at = trio.current_time()
        state.begun.set()
        if state.early is not None:
            self._end(state, state.early)
        elif run is None or run.finished.is_set():
            self._end(state, 137)  # the container exited at the same moment, so SIGKILL has ended the exec
        return stream

    async def _run(
        self, state: ExecState, wanted: Attach | None, console_size: list[int] | None
    ) -> trio.SocketStream | None:
        container = state.container
        await decided(container)  # wait, because an adoption removes the files of execs that the monitor does not know
        assert container.run is not None and container.run.monitor is not None
        monitor = container.run.monitor
        base = f"{self._paths.run_dir(container.id)}/exec-{state.id[:16]}"
        with open(f"{base}.json", "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(self._process(state, console_size))
        execution = Execution(
            state.id, f"{base}.json", f"{base}.pid", f"{base}.log", f"{base}.tty" if state.config.tty else ""
        )
        runtime = await self._drivers.runtime(*container.record.runtime)
        config = state.config
        message = Exec(
            exec_id=state.id,
            run=await asked(runtime.exec, task(self._paths, container), execution),
            pid_file=execution.pid_file,
            log_file=execution.log,
            terminal=config.tty,
            stdin=wanted is not None and wanted.stdin,
            console_socket=execution.console_socket,
            console_size=rows_and_columns(console_size or config.console_size),
            attach=wanted,
        )
        try:
            started, stream = await monitor.exec(message)
        except StartFailed as error:
            failed = error.failed
            if failed.timed_out:
                raise DeadlineExceeded(f"OCI runtime exec failed: {describe_timeout(message.run)}") from error
            outcome = Outcome(failed.status, b"", failed.stderr, failed.timed_out)
            raise InvalidParameter(await asked(runtime.explain, outcome, failed.log, "exec")) from error
        state.pid = started.pid
        return stream

    def check_startable(self, exec_id: str) -> ExecState:
        """Return the exec. Raises if it cannot be started now."""
        state = self.get(exec_id)
        if state.running:
            raise Conflict(f"Error: Exec command {exec_id} is already running")
        if state.started:
            raise Conflict(f"Error: Exec command {exec_id} has already run")
        self._check_running(state.container)
        return state

    async def attach(self, state: ExecState, client: Duplex, stream: trio.SocketStream) -> None:
        """Relay until the exec's output ends. The exit code is set when this returns."""

        async def ready() -> trio.SocketStream:
            return stream

        config = state.config
        try:
            await relay(
                client,
                ready,
                stdin=config.attach_stdin,
                detach_keys=state.detach_keys if config.tty and config.attach_stdin else None,
                end_on_stdin_eof=config.attach_stdin and (config.tty or not (config.attach_stdout or config.attach_stderr)),
                before_end=lambda: self._wait_ended(state),
            )
        except* Detached:
            self._publish(state, "exec_detach")

    async def _wait_ended(self, state: ExecState) -> None:
        # Clients inspect the exit code as soon as the stream ends.
        with trio.move_on_after(5):
            await state.ended.get()

    def exited(self, container: Container, event: ExecExited) -> None:
        state = self.index.get(event.exec_id)
        if state is None:  # the previous daemon started this exec
            self._remove_files(container, event.exec_id)
            return
        if state.begun.is_set():
            self._end(state, event.code)
        else:
            state.early = event.code

    def _end(self, state: ExecState, code: int) -> None:
        if not state.running:
            return
        state.running, state.exit_code, state.ended_at = False, code, trio.current_time()
        state.begun.set()
        state.ended.set(code)
        state.container.execs.discard(state.id)
        state.container.touch()
        self._publish(state, "exec_die", exitCode=str(code))
        self._remove_files(state.container, state.id)
        self._forgotten.append((state.ended_at + KEEP_ENDED, state.id))

    async def kill(self, state: ExecState) -> None:
        """Send SIGKILL to the process. It is no error if the process or its container has ended already."""
        run = state.container.run
        if state.running and run is not None and run.monitor is not None:
            with suppress(OrlopError):
                await run.monitor.signal(signal.SIGKILL, state.id)

    def forget(self, exec_id: str) -> None:
        """Remove an ended exec that the engine itself has created, and that no client knows."""
        state = self.index.get(exec_id)
        if state is not None and not state.running:
            del self.index[exec_id]

    def _forget_old(self) -> None:
        while self._forgotten and (len(self._forgotten) > KEEP_MOST or self._forgotten[0][0] <= trio.current_time()):
            self.index.pop(self._forgotten.popleft()[1], None)

    def _remove_files(self, container: Container, exec_id: str) -> None:
        run_dir = self._paths.run_dir(container.id)
        for suffix in ("json", "pid", "log", "tty"):
            try:
                os.unlink(f"{run_dir}/exec-{exec_id[:16]}.{suffix}")
            except OSError:
                pass  # the runtime did not create the file, or the container's directory was removed

    def adopt(self, container: Container, status: Status) -> None:
        """Remove the files of the previous daemon's execs that are not running. Clients can no longer refer to these
        execs."""
        living = {exec_id[:16] for exec_id in status.execs}
        for name in os.listdir(self._paths.run_dir(container.id)):
            exec_id, _, _ = name.removeprefix("exec-").partition(".")
            if name.startswith("exec-") and exec_id not in living:
                self._remove_files(container, exec_id)

    def container_ended(self, container: Container) -> None:
        """End the execs of a container that has ended, even if their exits were not reported."""
        for exec_id in list(container.execs):
            if (state := self.index.get(exec_id)) is not None and state.begun.is_set():
                self._end(state, 137)
        for state in [state for state in self.index.values() if state.container is container and not state.started]:
            container.execs.discard(state.id)
            del self.index[state.id]

    def reconcile(self, container: Container, status: Status, asked_at: float) -> None:
        """After a reconnect, end execs that are missing in the monitor's status, because the monitor does not report their
        exits again. An exec that began after `asked_at` is not ended, because the status may not contain it yet."""
        for exec_id in list(container.execs - status.execs.keys()):
            if (state := self.index.get(exec_id)) is not None and state.begun_at < asked_at:
                self._end(state, status.unreported_exits.get(exec_id, UNKNOWN_EXIT))

    async def resize(self, exec_id: str, rows: int, columns: int) -> None:
        state = self.get(exec_id)
        with trio.move_on_after(10):
            await state.begun.wait()
        if not state.begun.is_set():
            raise Conflict(f"exec process is not started: {exec_id}")
        if not state.running:
            raise NotFound(f"process does not exist {exec_id}: not found")
        if not state.config.tty:
            return
        assert state.container.run is not None and state.container.run.monitor is not None
        await state.container.run.monitor.resize(*rows_and_columns((rows, columns)), state.id)

    def is_expiring(self, state: ExecState) -> bool:
        """Whether the exec ended some time ago and will be removed soon."""
        return trio.current_time() > state.ended_at + KEEP_ENDED / 2


def _attachment(config: ExecConfig, framed: bool | None) -> Attach | None:
    """The streams to attach; None if the client asks for no stream."""
    if not (config.attach_stdin or config.attach_stdout or config.attach_stderr):
        return None
    return Attach(
        stdin=config.attach_stdin,
        stdout=config.attach_stdout,
        stderr=config.attach_stderr,
        stdin_once=True,
        framed=framed,
    )


def _shown(command: list[str]) -> str:
    """The command in the form of Docker's events. A blank follows a command without arguments."""
    return f"{command[0]} {' '.join(command[1:])}"


def _start_failure_code(reason: str) -> int:
    lower = reason.lower()
    if any(words in lower for words in ("executable file not found", "no such file or directory")):
        return 127
    return 126
