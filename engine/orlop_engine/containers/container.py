"""One container in memory: its record, who waits for it, and its present run.

The record is what is durable; everything else here is made anew when the daemon starts. `lock` serialises the operations
that change the container's state; readers take none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import trio

from orlop_engine.futures import Future
from orlop_engine.locks import StateLock
from orlop_engine.processes import runs
from orlop_engine.processes.monitor_client import Monitor
from orlop_monitor.protocol import Attach, Exited

from .record import ContainerRecord

if TYPE_CHECKING:
    from .health import Health

__all__ = ["AttachWaiter", "Container", "Joined", "Run"]

_BOOT_START = 30.0  # seconds


@dataclass(slots=True)
class Run:
    """One run, from the launch of its monitor to the monitor's end. `settled` is set when the start is decided;
    an exit that is reported earlier waits for it. `finished` is set when the exit has been accounted for; `recorded`: the
    row says so."""

    run_dir: str
    monitor: Monitor | None = None
    settled: trio.Event = field(default_factory=trio.Event)
    exited: Future[Exited] = field(default_factory=Future)
    finished: trio.Event = field(default_factory=trio.Event)
    recorded: bool = True
    oom_told: bool = False
    """The event `oom` has been published: the kill was seen as it happened."""
    killed: bool = False
    """SIGKILL is on its way: it must not be paused any more, for a frozen process does not die."""
    graces: set[trio.CancelScope] = field(default_factory=set)
    """Of who waits for its end under the lock, before they kill it."""
    latest: float = float("inf")
    """When they must not wait any longer."""

    async def grace(self, seconds: float) -> None:
        """Wait for its end, so long at most, and less when someone is in a hurry."""
        with trio.move_on_at(min(trio.current_time() + seconds, self.latest)) as scope:
            self.graces.add(scope)
            try:
                await self.ended()
            finally:
                self.graces.discard(scope)

    async def ended(self) -> None:
        """Wait until its exit has been accounted for. A monitor that does not answer will not tell it: once the container's
        process is dead, that monitor is ended as well."""
        if self.monitor is not None and self.monitor.silent and await runs.init_ended(self.run_dir):
            self.monitor.kill()
        await self.finished.wait()

    def expedite(self, seconds: float) -> None:
        """Whoever waits under the lock waits no longer than that."""
        self.latest = min(self.latest, trio.current_time() + seconds)
        for scope in self.graces:
            scope.deadline = min(scope.deadline, self.latest)


class Joined(NamedTuple):
    """An attachment: a stream of the monitor, and the run whose output it is."""

    stream: trio.SocketStream
    run: Run


@dataclass(slots=True)
class AttachWaiter:
    """A client that attached before the start: it is joined when the container's streams exist."""

    request: Attach
    joined: Future[Joined | None] = field(default_factory=Future)


class Container:
    def __init__(self, record: ContainerRecord) -> None:
        self.record = record
        self.lock = StateLock()
        self.network_lock = trio.Lock()
        """Of who changes `record.sandbox` over a wait: connect and disconnect, and the exit, which waits for no `lock`."""
        self.run: Run | None = None
        self.next_exit: Future[int] = Future()
        self.removed: Future[int] = Future()
        self.attach_waiters: list[AttachWaiter] = []
        self.restart_timer: trio.CancelScope | None = None
        self.restart_delay = 0.0
        self.stop_requested = False
        """The present run is being ended by a user or by the shutdown: no restart follows it."""
        self.owed_start: trio.Event | None = None
        """Set once the start has been tried that a boot owes the container by its restart policy. Until then it is shown as
        restarting; None when there is none."""
        self.row_going = False
        """Its row is being deleted, or is: no `save` may bring it back."""
        self.execs: set[str] = set()
        self.health: Health | None = None
        """Of the last run, when it has a check."""
        self.views: dict[str, bytes] = {}
        """Encoded answers, until the next `touch`."""

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def name(self) -> str:
        return self.record.name

    async def boot_start_tried(self) -> None:
        """Wait for the start that the boot owes the container. To clients of dockerd it has always been tried: they are
        served after it."""
        if self.owed_start is not None:
            with trio.move_on_after(_BOOT_START):
                await self.owed_start.wait()

    def touch(self) -> None:
        """The record changed: what was encoded from it is void."""
        self.views.clear()

    def release_attach_waiters(self) -> None:
        """There will be no stream: the start failed, or the container is removed."""
        waiters, self.attach_waiters = self.attach_waiters, []
        for waiter in waiters:
            waiter.joined.set(None)

    def exit_announced(self, code: int) -> None:
        """Wake who waits for the next exit; later waiters wait for the one after."""
        announced, self.next_exit = self.next_exit, Future()
        announced.set(code)
