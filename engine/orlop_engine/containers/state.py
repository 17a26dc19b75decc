"""The state machine of a container: its phases, the events that change them, and the one table of allowed transitions.

`State` is a frozen value. Each event has a method that checks the table and returns the next value, including the fields
that change together with the phase (pid, times, exit code, error). The caller assigns this value to
`ContainerRecord.state`. No other code sets a phase, except for the migration of old rows (`record`). Docker's booleans
are properties, derived from the phase.

A change that adds a phase must also add an operation that brings containers into the phase, and a route for this operation.
Use the module `pausing` as an example: it checks the state, commits the change and publishes an event. The change must
update:

- the decisions when the daemon starts: `restore` and `adoption`;
- other code that asks for the phase, most of it in `stopping`, `lifecycle`, `removal` and `execs`; find all of it with
  `grep -rE 'state.(running|paused|restarting)' engine/orlop_engine plugins/*/orlop_*`;
- `ContainerIndex.counts`, `check.rows`, `wire.container_list.status_text` of the front end `docker`, and `_states` of the
  metrics;
- the client: `_LIVING` in `commands/system.py`, `_containers` in `_completion.py`, `_ALIVE` in `explain/objects.py`, and
  `explain/container.py`, `commands/attach.py`, and the colours and keys of `fullscreen`; find all of it with
  `grep -rE '"(running|paused|restarting)"' cli/orlop_cli`;
- a new schema version of the rows (`record.SCHEMA`), so that the error of an older Orlop says that the row is too new;
- the tests: `PHASES`, `TABLE` and `APPLY` in `test_state.py`, the schema version in `test_rows.py`, and the operation in
  `tests/crash/operations.py`.

Two conditions are not phases. "Starting" belongs to the run (`Run.settled`). No client sees it and no row contains it,
because after a crash an interrupted start is undone. "Removing" is `ContainerRecord.removing`: after a failed removal, the
container is in the same phase as before.

This module does no I/O. The table is modelled on h11's `_state.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

import msgspec
from msgspec.structs import replace

__all__ = ["PHASES", "TRANSITIONS", "Event", "InvalidTransition", "Phase", "State"]


class Phase(Enum):
    """The values are Docker's words for `State.Status`; they are stored in the rows."""

    CREATED = "created"
    """The container has never run. A start may have failed."""
    RUNNING = "running"
    PAUSED = "paused"
    """The container runs, and its cgroup is frozen."""
    RESTARTING = "restarting"
    """The container has no process. The restart policy requires a start, after an exit or at the start of the daemon.
    `State.Running` is true, as in Docker."""
    EXITED = "exited"
    """The container has run and ended."""
    DEAD = "dead"
    """The container has ended, and its automatic removal (`--rm`) has failed. The only possible operation is a removal."""


class Event(Enum):
    STARTED = "started"
    START_FAILED = "start failed"
    PAUSED = "paused"
    RESUMED = "resumed"
    OUT_OF_MEMORY = "out of memory"
    """The kernel has killed a process of the container. If the container exits because of this, the exit is a separate
    event."""
    EXITED = "exited"
    """The exit has been reported, or read from the monitor's records, and no restart follows."""
    WILL_RESTART = "will restart"
    """The exit has been reported, and the restart policy wants another run."""
    START_ANNOUNCED = "start announced"
    """The daemon has just started, and is going to start the container because of the restart policy."""
    RESTART_CANCELLED = "restart cancelled"
    ADOPTED = "adopted"
    """When the daemon started, it found a process that is not in the row."""
    LOST = "lost"
    """When the daemon started, it found neither the process that the row names nor an exit record."""
    AUTO_REMOVE_FAILED = "auto-remove failed"


_STOPPED = Phase.EXITED  # if the container has never run, `State._next` uses CREATED instead

# Events that the daemon causes are refused in phases where they make no sense. Events that the daemon observes (an exit, a
# running process, no process) are accepted in almost every phase, because a crash or a full disk may have prevented earlier
# commits.
TRANSITIONS: Mapping[Phase, Mapping[Event, Phase]] = {
    Phase.CREATED: {
        Event.STARTED: Phase.RUNNING,
        Event.START_FAILED: _STOPPED,
        Event.OUT_OF_MEMORY: Phase.CREATED,  # the kernel may kill a process before the start is reported
        Event.EXITED: _STOPPED,
        Event.WILL_RESTART: Phase.RESTARTING,
        Event.START_ANNOUNCED: Phase.RESTARTING,
        Event.ADOPTED: Phase.RUNNING,
        Event.LOST: _STOPPED,
        Event.AUTO_REMOVE_FAILED: Phase.DEAD,
    },
    Phase.RUNNING: {
        Event.PAUSED: Phase.PAUSED,
        Event.OUT_OF_MEMORY: Phase.RUNNING,
        Event.EXITED: _STOPPED,
        Event.WILL_RESTART: Phase.RESTARTING,
        Event.ADOPTED: Phase.RUNNING,
        Event.LOST: _STOPPED,
    },
    Phase.PAUSED: {
        Event.PAUSED: Phase.PAUSED,  # an adoption may find the frozen cgroup before `pause` returns
        Event.RESUMED: Phase.RUNNING,
        Event.OUT_OF_MEMORY: Phase.PAUSED,
        Event.EXITED: _STOPPED,
        Event.WILL_RESTART: Phase.RESTARTING,
        Event.ADOPTED: Phase.RUNNING,
        Event.LOST: _STOPPED,
    },
    Phase.RESTARTING: {
        Event.STARTED: Phase.RUNNING,
        Event.START_FAILED: _STOPPED,
        Event.OUT_OF_MEMORY: Phase.RESTARTING,
        Event.EXITED: _STOPPED,
        Event.WILL_RESTART: Phase.RESTARTING,
        Event.RESTART_CANCELLED: _STOPPED,
        Event.ADOPTED: Phase.RUNNING,
        Event.LOST: _STOPPED,
    },
    Phase.EXITED: {
        Event.STARTED: Phase.RUNNING,
        Event.START_FAILED: _STOPPED,
        Event.OUT_OF_MEMORY: Phase.EXITED,
        Event.EXITED: _STOPPED,
        Event.WILL_RESTART: Phase.RESTARTING,
        Event.START_ANNOUNCED: Phase.RESTARTING,
        Event.ADOPTED: Phase.RUNNING,
        Event.LOST: _STOPPED,
        Event.AUTO_REMOVE_FAILED: Phase.DEAD,
    },
    Phase.DEAD: {
        Event.OUT_OF_MEMORY: Phase.DEAD,
        Event.EXITED: Phase.DEAD,
        Event.ADOPTED: Phase.RUNNING,
        Event.LOST: Phase.DEAD,
        Event.AUTO_REMOVE_FAILED: Phase.DEAD,  # the next daemon tries the removal again
    },
}


class InvalidTransition(RuntimeError):
    """The table does not allow the event in this phase. This error is always a bug in Orlop, not a mistake of a client or a
    driver."""

    def __init__(self, phase: Phase, event: Event) -> None:
        super().__init__(f'internal error: event "{event.value}" is not allowed for a container that is {phase.value}')
        self.phase, self.event = phase, event


class State(msgspec.Struct, frozen=True):
    """`pid` is 0 if there is no process, also while the container is restarting. `pid_start_time` is in clock ticks since
    the boot of the host; `started_ns` and `finished_ns` are Unix times, 0 for never. `error` is the error of the last
    start."""

    phase: Phase = Phase.CREATED
    oom_killed: bool = False
    pid: int = 0
    pid_start_time: int = 0
    exit_code: int = 0
    error: str = ""
    started_ns: int = 0
    finished_ns: int = 0

    # --- Docker's fields --------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Docker's `Running`: also true for a container that is paused or restarting."""
        return self.phase in _RUNNING

    @property
    def paused(self) -> bool:
        return self.phase is Phase.PAUSED

    @property
    def restarting(self) -> bool:
        return self.phase is Phase.RESTARTING

    @property
    def dead(self) -> bool:
        return self.phase is Phase.DEAD

    @property
    def status(self) -> str:
        return self.phase.value

    # --- events -----------------------------------------------------------------------------------------------------

    def after_start(self, pid: int, start_time: int, time_ns: int) -> State:
        return replace(
            self,
            phase=self._next(Event.STARTED),
            oom_killed=False,
            pid=pid,
            pid_start_time=start_time,
            exit_code=0,
            error="",
            started_ns=time_ns,
        )

    def after_failed_start(self, exit_code: int, error: str) -> State:
        """Docker's client ends with the exit status `exit_code`."""
        return replace(self, phase=self._next(Event.START_FAILED), pid=0, pid_start_time=0, exit_code=exit_code, error=error)

    def after_pause(self) -> State:
        return replace(self, phase=self._next(Event.PAUSED))

    def after_resume(self) -> State:
        return replace(self, phase=self._next(Event.RESUMED))

    def after_oom(self) -> State:
        return replace(self, phase=self._next(Event.OUT_OF_MEMORY), oom_killed=True)

    def after_exit(self, exit_code: int, time_ns: int, oom: bool, *, restart: bool = False) -> State:
        """`restart`: the restart policy wants another run."""
        return replace(
            self,
            phase=self._next(Event.WILL_RESTART if restart else Event.EXITED),
            oom_killed=oom,
            pid=0,
            pid_start_time=0,
            exit_code=exit_code,
            finished_ns=time_ns,
        )

    def after_unseen_exit(self, started_ns: int, exit_code: int, time_ns: int, oom: bool) -> State:
        """The state after a run whose start (at `started_ns`) and exit were not recorded."""
        return replace(self, started_ns=started_ns).after_exit(exit_code, time_ns, oom)

    def after_start_announcement(self) -> State:
        return replace(self, phase=self._next(Event.START_ANNOUNCED))

    def after_cancelled_restart(self) -> State:
        return replace(self, phase=self._next(Event.RESTART_CANCELLED))

    def after_adoption(self, pid: int, start_time: int, time_ns: int) -> State:
        return replace(
            self,
            phase=self._next(Event.ADOPTED),
            pid=pid,
            pid_start_time=start_time,
            exit_code=0,
            error="",
            started_ns=time_ns,
        )

    def after_loss(self) -> State:
        return replace(self, phase=self._next(Event.LOST), pid=0, pid_start_time=0)

    def after_failed_auto_remove(self) -> State:
        return replace(self, phase=self._next(Event.AUTO_REMOVE_FAILED))

    def _next(self, event: Event) -> Phase:
        target = TRANSITIONS[self.phase].get(event)
        if target is None:
            raise InvalidTransition(self.phase, event)
        return Phase.CREATED if target is _STOPPED and not self.started_ns else target


_RUNNING = (Phase.RUNNING, Phase.PAUSED, Phase.RESTARTING)
PHASES = frozenset(phase.value for phase in Phase)
