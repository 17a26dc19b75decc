"""One crash point: prepare, begin, kill, restart, compare, repeat, undo.

First the permitted states are recorded: the operation runs without a crash, and the state of the host is recorded before the
operation and after each of its steps. A crash must leave the state after the last acknowledged step, or after the next step,
and no state in between.
"""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from tests.integration.engine import Engine, alive, until

from orlop_kernel.boot.watchdog import BLOCKED

from . import builds, operations
from .host import HostState, difference, is_settled, look, relaxed, without_cache, without_fetched
from .operation import Operation, Refused, Step, ask
from .tracer import Tracer

__all__ = ["Failure", "Learned", "Point", "Rig"]

_CONFIG = {"shutdown-timeout": 3}
_PATIENCE = 10.0  # seconds for background work after a start
_STILL = 3.0  # seconds; a state that has not changed for this time is final
_OFF = 5  # every fifth point runs without live-restore
_ITSELF = ("daemon", "boot", "command")  # after the kill of one of these victims, a daemon is started
_LOST = (OSError, http.client.HTTPException)


class Failure(AssertionError):
    """A crash at this point has left a state that is not permitted."""


@dataclass
class Learned:
    """The result of a run without a crash: the states before and after each step, and other states that a crash may
    leave."""

    calls: list[str]
    states: list[HostState]
    between: list[HostState] = field(default_factory=list)


@dataclass(frozen=True)
class Point:
    operation: Operation
    number: int

    @property
    def live(self) -> bool:
        operation = self.operation
        return self.number % _OFF != 0 or operation.resumes or operation.caches or operation.victim not in ("daemon", "boot")

    @property
    def also_daemon(self) -> bool:
        """At every fourth point where a monitor or the zygote is killed, the daemon is killed, too."""
        return self.operation.victim not in _ITSELF and self.number % 4 == 0

    def __str__(self) -> str:
        return f"{self.operation.name}:{self.number}"


class _Client(threading.Thread):
    """Runs the steps, and records which of them were acknowledged."""

    def __init__(self, engine: Engine, operation: Operation) -> None:
        super().__init__(name="client", daemon=True)
        self.engine, self.operation = engine, operation
        self.acknowledged = 0
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        for step in self.operation.steps:
            try:
                step(self.engine)
            except Exception as error:
                self.error = error
                return
            self.acknowledged += 1


class Rig:
    """A daemon with two containers that exist during all points, and the permitted states that were recorded with this
    daemon. Use a `Rig` in a `with` block. `storage` is the daemon's storage driver, "" for the default."""

    def __init__(self, storage: str = "") -> None:
        self.storage = storage
        self._learned: dict[tuple[str, bool], Learned] = {}
        self._offs: dict[str, HostState] = {}

    def __enter__(self) -> Rig:
        self.engine = Engine(self._config())
        try:
            self._prepare()
        except BaseException:
            self.engine.close()
            raise
        return self

    def _config(self, *, live: bool = True) -> dict[str, Any]:
        return {**_CONFIG, "live-restore": live, **({"storage-driver": self.storage} if self.storage else {})}

    def _prepare(self) -> None:
        self.engine.start()
        self.engine.load()
        ask(self.engine, "POST", "/containers/create?name=idle", {"Image": "busybox", "Cmd": ["true"]})
        operations.container("by", "sleep", "6000", ports=True, StopSignal="SIGKILL", Binds=["own:/own"])(self.engine)
        ask(self.engine, "POST", "/containers/by/start")
        self.pid = self.engine.inspect("by")["State"]["Pid"]
        self.base = self.steady()

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """The final check: after the removal of all containers, nothing is left on the host."""
        if self.engine.process is None:  # a point failed while no daemon was running
            with suppress(AssertionError):
                self.engine.start()
        left = self.engine.close()
        if left and all(BLOCKED in line for line in left):
            raise Failure(f"{BLOCKED}:\n  " + "\n  ".join(left))
        if left:
            raise Failure("left on the host after everything was removed:\n  " + "\n  ".join(left))

    # --- states -----------------------------------------------------------------------------------------------------

    def steady(self) -> HostState:
        """A state that stays the same for a moment, so background work has finished."""
        end, last, since = time.monotonic() + _PATIENCE, look(self.engine), time.monotonic()
        while time.monotonic() < end:
            time.sleep(0.02)
            found = look(self.engine)
            if found != last:
                last, since = found, time.monotonic()
            elif time.monotonic() - since > 0.2 and is_settled(found):
                return found
        return last

    def _becomes(self, wanted: list[HostState], through: Callable[[HostState], HostState] = HostState) -> int:
        """Wait until the host is in one of these states, and return the index of this state. `through` is applied to both
        states before a comparison."""
        found, since = HostState(), time.monotonic()
        end = since + _PATIENCE
        wanted = [through(item) for item in wanted]
        while time.monotonic() < end:
            last, found = found, through(look(self.engine))
            if found in wanted:
                return wanted.index(found)
            if found != last:
                since = time.monotonic()
            elif time.monotonic() - since > _STILL and is_settled(found):
                break
            time.sleep(0.03)
        nearest = min(wanted, key=lambda item: len(difference(found, item)))
        raise Failure(
            f"after the crash (nearest of {len(wanted)} states: {wanted.index(nearest)}):\n  "
            + "\n  ".join(difference(found, nearest))
        )

    # --- the daemon -------------------------------------------------------------------------------------------------

    def _boot(self, live: bool) -> None:
        self.engine.configure(self._config(live=live))
        self.engine.start()

    def _is_running(self) -> bool:
        """False once the process is exiting, even if only its first thread has ended."""
        process = self.engine.process
        return process is not None and process.poll() is None and alive(process.pid)

    def _ended(self) -> None:
        process = self.engine.process
        assert process is not None
        process.wait(20)
        self.engine.process = None

    def _crash(self, live: bool) -> None:
        self.engine.kill()
        self._boot(live)

    def _victim(self, operation: Operation) -> int:
        if operation.victim == "daemon":
            assert self.engine.process is not None
            return self.engine.process.pid
        if operation.victim == "monitor":
            return self.engine.monitor("xx")
        if operation.victim == "builder":
            return builds.builder(self.engine)
        return self.engine.zygote

    # --- learning ---------------------------------------------------------------------------------------------------

    def learn(self, operation: Operation, live: bool = True) -> Learned:
        """Run the operation without a crash. If `live` is false, start a daemon without live-restore after each step, and
        record the state then."""
        key = operation.name, live
        if key not in self._learned:
            self._learned[key] = (
                self._learn_boot(operation, live) if operation.victim == "boot" else self._learn(operation, live)
            )
        return self._learned[key]

    def _learn(self, operation: Operation, live: bool) -> Learned:
        engine, steps = self.engine, operation.steps
        operation.prepare(engine)
        before = self.steady()
        learned = Learned(self._traced_calls(operation), [before])
        for count in range(1, len(steps) + 1) if live else range(len(steps) + 1):
            learned.states[count:] = [self._state_after(operation, steps[:count], live)]
        learned.between = [self._state_after(operation, (step,), live) for step in operation.between]
        self._undo(operation, live=True)
        return learned

    def _traced_calls(self, operation: Operation) -> list[str]:
        """The calls that the victim makes during the operation. After this function, the daemon runs."""
        if operation.victim == "command":
            code, tracer = self._run_command(operation)
            if code:
                raise Failure(f"{operation.name} fails without any crash: exit code {code}\n{self.engine.log()[-1000:]}")
            return tracer.calls
        with Tracer(self._victim(operation), follow=operation.victim == "fork") as tracer:
            client = _Client(self.engine, operation)
            client.join()
            tracer.settle(operation.window)
        if client.error:
            raise Failure(f"{operation.name} fails without any crash: {client.error}") from client.error
        if not self._is_running():
            self._ended()
            self._boot(live=True)
        return tracer.calls

    def _run_command(self, operation: Operation, stop_at: int = 0) -> tuple[int, Tracer]:
        """Run the operation's command while the daemon is stopped, and kill it at this call. Returns its exit code."""
        self.engine.stop()
        with self.engine.log_path.open("ab") as log:
            process = subprocess.Popen(operation.command(self.engine), stdout=log, stderr=log, cwd="/")
        with Tracer(process.pid, stop_at) as tracer:
            until(lambda: not alive(process.pid), "the end of the command", 60)
        process.wait()
        self._boot(live=True)
        return tracer.exits.get(process.pid, process.returncode), tracer

    def _state_after(self, operation: Operation, steps: tuple[Step, ...], live: bool) -> HostState:
        self._undo(operation, live=True)
        operation.prepare(self.engine)
        for step in steps:
            step(self.engine)
        if self._is_running():
            if live:
                return self.steady()
            self.engine.kill()
        else:
            self._ended()
        self._boot(live)
        found = self.steady()
        if not live:
            self._revive()
        return found

    def _learn_boot(self, operation: Operation, live: bool) -> Learned:
        operation.prepare(self.engine)
        self.engine.kill()
        self.engine.configure(self._config(live=live))
        with self._traced_boot() as tracer:
            until(self._pings, "the daemon answers")
            tracer.settle(0.3)
        found = self.steady()
        self._undo(operation, live)
        return Learned(tracer.calls, [found])

    def _pings(self) -> bool:
        """waitpid is not used, because it would take the stops of the traced process away from the tracer."""
        try:
            return self.engine.api("GET", "/_ping")[0] == 200
        except _LOST:
            return False

    @contextmanager
    def _traced_boot(self, stop_at: int = 0) -> Iterator[Tracer]:
        with self.engine.log_path.open("ab") as log:
            process = subprocess.Popen(self.engine.command, stdout=log, stderr=log, cwd="/")
        self.engine.process = process
        with Tracer(process.pid, stop_at) as tracer:
            yield tracer

    def _revive(self) -> None:
        """Called after a daemon without live-restore has run: start the standing container again."""
        self._crash(live=True)
        ask(self.engine, "POST", "/containers/by/start", None, 304)
        self.pid = self.engine.inspect("by")["State"]["Pid"]

    def _undo(self, operation: Operation, live: bool) -> None:
        if not live:
            self._revive()
        operation.undo(self.engine)
        try:
            self._becomes([self.base])
        except Failure as failure:
            raise Failure(f"after everything of {operation.name} was removed again, {failure}") from None

    # --- one point --------------------------------------------------------------------------------------------------

    def run(self, point: Point) -> str:
        """Try one point. Returns the call at which the process was killed; raises `Failure`."""
        operation, live = point.operation, point.live
        learned = self.learn(operation, live)
        operation.prepare(self.engine)
        kill = {"boot": self._kill_boot, "command": self._kill_command}.get(operation.victim, self._kill)
        acknowledged, killed = kill(point)
        try:
            self._label_scope(point, learned, acknowledged)
        except Exception as failure:
            raise Failure(
                f"killed at {killed}, {acknowledged} of {len(operation.steps)} acknowledged: {failure}"
            ) from failure
        return killed

    def _kill(self, point: Point) -> tuple[int, str]:
        operation, engine = point.operation, self.engine
        with Tracer(self._victim(operation), point.number, follow=operation.victim == "fork") as tracer:
            client = _Client(engine, operation)
            while client.is_alive() and not tracer.killed:
                client.join(0.005)
            tracer.settle(operation.window)
        kills_daemon = operation.victim == "daemon" or point.also_daemon
        if kills_daemon and engine.process is not None and self._is_running():
            engine.process.kill()
        client.join(40)
        if client.is_alive():
            raise Failure("the client still waits for an answer")
        if kills_daemon:
            self._ended()
            self._boot(point.live)
        if client.error and not isinstance(client.error, (*_LOST, AssertionError)):
            raise client.error
        if client.error and not tracer.killed:
            raise Failure(f"{operation.name} fails without any crash: {client.error}")
        return client.acknowledged, tracer.killed or "the end of it"

    def _kill_command(self, point: Point) -> tuple[int, str]:
        code, tracer = self._run_command(point.operation, point.number)
        if code not in (0, -signal.SIGKILL):
            raise Failure(f"the command fails without any crash: exit code {code}\n{self.engine.log()[-1000:]}")
        return int(code == 0), tracer.killed or "the end of it"

    def _kill_boot(self, point: Point) -> tuple[int, str]:
        self.engine.kill()
        self.engine.configure(self._config(live=point.live))
        with self._traced_boot(point.number) as tracer:
            process = self.engine.process
            assert process is not None
            end = time.monotonic() + 10
            while not tracer.killed and time.monotonic() < end and len(tracer.calls) < point.number:
                time.sleep(0.005)
                if time.monotonic() - tracer.last > 1:
                    break
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        self._ended()
        self._boot(point.live)
        return 0, tracer.killed or "the end of it"

    def _label_scope(self, point: Point, learned: Learned, acknowledged: int) -> None:
        operation = point.operation
        killed_other = operation.victim not in _ITSELF
        described = relaxed if killed_other else HostState

        def through(found: HostState) -> HostState:
            return described(without_cache(found) if operation.caches else found)

        states = learned.states[acknowledged : acknowledged + 2]
        found = self._becomes(
            [*states, *learned.between], lambda found: through(without_fetched(found) if operation.resumes else found)
        )
        if point.live:
            self._check_standing()
        done = acknowledged + found
        if point.live and found < len(states):
            for step in operation.steps[done:]:
                self._repeat(step)
            if operation.steps and operation.name != "shutdown":
                self._becomes([learned.states[-1]], through)
        if not self._is_running():
            self._ended()
            self._boot(live=True)
        self._undo(operation, point.live)

    def _repeat(self, step: Step) -> None:
        try:
            step(self.engine)
        except Refused as refused:
            raise Failure(f"done again, {refused}") from None

    def _check_standing(self) -> None:
        if not alive(self.pid) or self.engine.inspect("by")["State"]["Pid"] != self.pid:
            raise Failure("the standing container does not run as before")
