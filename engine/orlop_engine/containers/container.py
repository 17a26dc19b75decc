"""A container as the daemon keeps it in memory: its record, the tasks that wait for it, and its current run.

Only the record is stored. The daemon builds all other data again when it starts. `lock` serialises operations that change
the container's state; readers do not take it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import NamedTuple

import msgspec
import trio
from msgspec import field
from msgspec.structs import replace

from orlop_engine.futures import Future
from orlop_engine.locks import StateLock
from orlop_engine.processes import runs
from orlop_engine.processes.monitor_client import MonitorClient
from orlop_monitor.protocol import Attach, Exited, Launch
from orlop_sdk import Mount

from .health import Health
from .record import ContainerRecord

__all__ = ["AttachWaiter", "Container", "Joined", "PreparedSandbox", "Run", "TreeMount", "Unlisted"]

_BOOT_START = 30.0  # seconds that a request waits at most for `owed_start`


class Run(msgspec.Struct, eq=False):
    """One run of a container. The run begins when its monitor (the parent process of the container) is launched, and ends
    when the monitor ends. `settled` is set once the start has succeeded or failed. An exit that the monitor reports earlier
    is processed only after `settled` is set. `finished` is set once the exit has been published. `recorded` is true once the
    container's row contains the exit."""

    run_dir: str
    monitor: MonitorClient | None = None
    settled: trio.Event = field(default_factory=trio.Event)
    exited: Future[Exited] = field(default_factory=Future)
    finished: trio.Event = field(default_factory=trio.Event)
    recorded: bool = True
    oom_told: bool = False
    """The event `oom` has been published already. It is published when the kernel kills a process of the container."""
    killed: bool = False
    """SIGKILL is about to be sent. The container must not be paused after this, because a frozen process does not die."""
    graces: set[trio.CancelScope] = set()
    """The scopes of tasks that hold the container's lock and wait for its exit. `expedite` shortens these waits."""
    latest: float = float("inf")
    """No wait in `grace` lasts beyond this time."""
    volume_users: list[str] = []
    """The volumes that their drivers have mounted for this run (see `Volumes.mount`)."""

    async def grace(self, seconds: float) -> None:
        """Wait for the exit, for at most `seconds`, or less if `expedite` shortens the wait."""
        with trio.move_on_at(min(trio.current_time() + seconds, self.latest)) as scope:
            self.graces.add(scope)
            try:
                await self.ended()
            finally:
                self.graces.discard(scope)

    async def ended(self) -> None:
        """Wait until the exit has been published. A monitor that does not answer cannot report the exit, so this function
        kills such a monitor once the container's process is dead."""
        if self.monitor is not None and self.monitor.silent and await runs.init_ended(self.run_dir):
            self.monitor.kill()
        await self.finished.wait()

    def expedite(self, seconds: float) -> None:
        """Limit the remaining wait of all tasks in `grace` to `seconds`."""
        self.latest = min(self.latest, trio.current_time() + seconds)
        for scope in self.graces:
            scope.deadline = min(scope.deadline, self.latest)


class Joined(NamedTuple):
    """An attachment: a stream from the monitor, and the run that it belongs to."""

    stream: trio.SocketStream
    run: Run


class AttachWaiter(msgspec.Struct, eq=False):
    """A client that attached before the start. The client gets its stream once the container's streams exist."""

    request: Attach
    joined: Future[Joined | None] = field(default_factory=Future)


class PreparedSandbox:
    """See the module `prepared_sandbox`. `wanted` is the launch request without mounts, because the mounts are resolved only
    when the monitor is forked."""

    def __init__(self, wanted: Launch) -> None:
        self.wanted = wanted
        self.monitor: Future[MonitorClient | None] = Future()
        self.over = trio.Event()


class TreeMount(msgspec.Struct, frozen=True):
    """Mounts that the monitor makes at `target` in the container. If `subpath` is set, only this path inside the mounts
    appears at `target`."""

    target: str
    mounts: tuple[Mount, ...]
    subpath: str = ""
    readonly: bool = False


class Unlisted(msgspec.Struct, frozen=True):
    """Marks a container that was not created through the API, such as a step of a build. Such a container has no row and is
    not in the `ContainerIndex`, so no list shows it. It publishes no events, is not restarted, and ends when the daemon
    ends. The caller creates the snapshot for its root, and may later turn this snapshot into a layer. If `outputs` is set,
    it contains the file descriptors of the container's standard output and standard error, and optionally of its standard
    input. If it is not set, clients attach to the container's streams. As in BuildKit, the engine makes no file
    /etc/hostname for the container, and the container cannot change /etc/hosts and /etc/resolv.conf, unless `editable_files`
    is set."""

    snapshot: str
    outputs: tuple[int, ...] = ()
    trees: tuple[TreeMount, ...] = ()
    editable_files: bool = False


class Container:
    def __init__(self, record: ContainerRecord, unlisted: Unlisted | None = None) -> None:
        self.unlisted = unlisted
        self.record = record
        """A record is never changed in place. A change replaces the whole record (see `Rows.change` and `publish`), so a
        function that keeps a reference to a record sees one consistent state. After an await, this attribute may refer to a
        newer record."""
        self.row_lock = trio.Lock()
        """`Rows.change` holds this lock while it commits the row and publishes the new record."""
        self.lock = StateLock()
        self.network_lock = trio.Lock()
        """This lock is held by the operations that change `record.sandbox` and await in between: connect, disconnect, and
        the processing of an exit (which does not take `lock`)."""
        self.run: Run | None = None
        self.next_exit: Future[int] = Future()
        self.removed: Future[int] = Future()
        self.attach_waiters: list[AttachWaiter] = []
        self.restart_timer: trio.CancelScope | None = None
        self.restart_delay = 0.0
        self.stop_requested = False
        """A user or the daemon's shutdown is ending the current run, so the restart policy must not restart the
        container."""
        self.owed_start: trio.Event | None = None
        """A new daemon restarts the containers whose restart policies require this. For such a container, this event is set
        once the daemon has tried the restart. Until then the container is shown as restarting. None for other containers."""
        self.being_restarted = False
        """A user's restart is in progress. The exit during a restart does not count as a manual stop, and does not remove a
        container with `--rm`."""
        self.row_going = False
        """The row has been deleted or is being deleted, so `save` must not write the row again."""
        self.execs: set[str] = set()
        self.health: Health | None = None
        """The health check of the last run, if it has one."""
        self.revision = object()
        """Identifies the shown state of the container: `touch` replaces the revision. Code that caches a value derived from
        the container, such as an encoded answer, also stores the revision. The cached value is valid as long as the stored
        revision is the current one."""

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def name(self) -> str:
        return self.record.name

    async def boot_start_tried(self) -> None:
        """If this container is restarted because the daemon has started (see `owed_start`), wait until the daemon has tried
        this. dockerd serves no request before it has restarted the containers whose restart policies require this. So
        clients expect that a daemon that answers has already tried to restart the container."""
        if self.owed_start is not None:
            with trio.move_on_after(_BOOT_START):
                await self.owed_start.wait()

    @contextmanager
    def publish(self) -> Iterator[ContainerRecord]:
        """Change the record without a commit. The `with` block sets fields of a copy, and the copy replaces the record at
        the end of the block. The block must not await. Use this method for changes that must be visible even if a commit
        fails, and `Rows.change` for all other changes."""
        draft = copy(self.record)
        yield draft
        self.record = draft
        self.touch()

    @contextmanager
    def published(self, **fields: object) -> Iterator[None]:
        """Publish fields before the `with` block runs. The block changes the kernel's state to match the fields, or the
        fields tell clients that the block is in progress. If the block fails, the fields get their former values back. A
        field that another task has published meanwhile keeps the newer value: an exit is published without the lock, and the
        values of the exit must stay."""
        before = {name: getattr(self.record, name) for name in fields}
        self.record = replace(self.record, **fields)
        self.touch()
        try:
            yield
        except BaseException:
            restored = {name: before[name] for name, value in fields.items() if getattr(self.record, name) is value}
            self.record = replace(self.record, **restored)
            self.touch()
            raise

    def touch(self) -> None:
        """Begin a new revision, because data that clients see has changed: the record, an exec or the health."""
        self.revision = object()

    def release_attach_waiters(self) -> None:
        """Wake the tasks of clients that attached before the start; these clients get no stream. Called when the start has
        failed, or when the container is removed."""
        waiters, self.attach_waiters = self.attach_waiters, []
        for waiter in waiters:
            waiter.joined.set(None)

    def exit_announced(self, code: int) -> None:
        """Wake the tasks that wait for this exit. A task that begins to wait after this call waits for the next exit."""
        announced, self.next_exit = self.next_exit, Future()
        announced.set(code)
