"""The volumes of this daemon: rows in the store, content in the drivers.

The driver creates a volume before its row is committed, and the create is acknowledged after the commit. A crash between
these steps leaves content without a row; `load` makes rows for such volumes of the local driver. A removal first marks the
row, so that `load` can complete an interrupted removal. The removal is acknowledged when the row is deleted.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, MutableSequence, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import msgspec
import trio

from orlop_engine.calls import origin
from orlop_engine.config import defaults
from orlop_kernel.events import EventBus
from orlop_kernel.store import UNREADABLE, Delete, Put, Store
from orlop_sdk import Conflict, DeadlineExceeded, Mount, NotFound, OrlopError, Unavailable, VolumeDriver, VolumeMounts

from .record import ANONYMOUS, USE, VolumeRecord, VolumeUsage, check_name, decode, encode

if TYPE_CHECKING:
    from .filters import Filters
    from .uses import Uses

__all__ = ["VolumeRecord", "Volumes"]

log = logging.getLogger("orlop.volumes")

_TABLE = "volumes"


class Volumes:
    """`drivers` returns the driver with a name and the driver's `made_with` (see `VolumeRecord`); `users` returns, for each
    volume, the IDs of the containers that use it, including stopped containers. Methods that only read take no lock and
    call no driver."""

    def __init__(
        self,
        store: Store,
        events: EventBus,
        drivers: Callable[[str, str], Awaitable[VolumeDriver]],
        users: Callable[[], Mapping[str, list[str]]],
    ) -> None:
        self._store = store
        self._events = events
        self._drivers = drivers
        self._users = users
        self._records: dict[str, VolumeRecord] = {}
        self._held: Counter[str] = Counter()
        self._locks: WeakValueDictionary[str, trio.Lock] = WeakValueDictionary()
        self._pruning = False

    @cached_property
    def _uses(self) -> Uses:
        from .uses import Uses  # imported here, because few daemons have a driver that mounts volumes

        return Uses(self._store, self._drivers)

    # --- start of the daemon

    async def load(self) -> None:
        """Read the rows, and complete interrupted creations and removals. A driver that does not answer is skipped."""
        for name, row in self._store.load(_TABLE):
            try:
                record = decode(row)
                if record.name != name:
                    raise ValueError(f"row contains another name: {record.name[:80]!r}")
            except UNREADABLE as error:
                await self._store.quarantine(_TABLE, name, str(error))
            else:
                self._records[name] = record
        if any(key.startswith(USE) for key, _ in self._store.load("intents")):
            await self._uses.load()
        for record in [record for record in self._records.values() if record.removing]:
            try:
                await self._discard(record)
            except OrlopError as error:
                log.warning("cannot remove volume %s; the next start of the daemon tries again: %s", record.name, error)
        try:
            await self.adopt()
        except OrlopError as error:
            log.warning("cannot list volumes of the local driver: %s", error)

    async def adopt(self) -> None:
        """Create rows for volumes of the local driver that have no row."""
        driver = await self._drivers(defaults.VOLUME_DRIVER, "")
        for name in await driver.names():
            if name not in self._records:
                await self._adopt(driver, name)

    async def _adopt(self, driver: VolumeDriver, name: str) -> None:
        try:
            volume = await driver.get(name)
            await self._put(
                VolumeRecord(name, defaults.VOLUME_DRIVER, time.time_ns(), volume.mountpoint, dict(volume.options))
            )
        except OrlopError as error:
            log.warning("cannot store row of volume %s: %s", name, error)

    # --- reads

    def get(self, name: str) -> VolumeRecord:
        """The volume with this name. Raises `NotFound("get NAME: no such volume")`."""
        record = self._records.get(name)
        if record is None or record.removing:
            raise NotFound(f"get {name}: no such volume")
        return record

    def mountpoint(self, name: str) -> str:
        """The directory of the volume's content on the host; "" if the volume has no directory or does not exist."""
        record = self._records.get(name)
        return record.mountpoint if record else ""

    def list(self, wanted: Filters) -> list[VolumeRecord]:
        """The volumes, sorted by name. Raises `InvalidParameter` for invalid filters."""
        from . import filters  # imported here, because the daemon's start does not need it

        accept = filters.listed(wanted)
        users = self._users()
        return [record for record in self._sorted() if accept(record, record.name in users)]

    def _sorted(self) -> Iterable[VolumeRecord]:
        return sorted((record for record in self._records.values() if not record.removing), key=lambda record: record.name)

    def _in_use(self, name: str) -> Sequence[str]:
        return self._users().get(name, ())

    async def with_usage(self) -> Sequence[VolumeUsage]:
        """The volumes that Docker includes in its disk usage, with sizes."""
        sizes: dict[str, int] = {}
        users = self._users()

        async def measure(record: VolumeRecord) -> None:
            sizes[record.name] = await self._size(record)

        records = [record for record in self._sorted() if record.disposable]
        async with trio.open_nursery() as nursery:
            for record in records:
                nursery.start_soon(measure, record)
        return [VolumeUsage(record, len(users.get(record.name, ())), sizes[record.name]) for record in records]

    async def _size(self, record: VolumeRecord) -> int:
        try:
            return (await (await self._drivers(record.driver, record.made_with)).usage(record.name)).size
        except OrlopError as error:
            log.warning("cannot measure volume %s: %s", record.name, error)
            return -1

    async def status(self, record: VolumeRecord) -> tuple[str, Mapping[str, Any]]:
        """The current mount point of a volume and the status that its driver reports. A driver that does not answer has no
        status. The default driver is not called, because it has no status."""
        if record.driver == defaults.VOLUME_DRIVER:
            return record.mountpoint, {}
        try:
            found = await (await self._drivers(record.driver, record.made_with)).get(record.name)
        except OrlopError as error:
            log.info("cannot get the status of volume %s: %s", record.name, error)
            return record.mountpoint, {}
        return found.mountpoint, found.status

    async def mounts(self, name: str) -> Sequence[Mount]:
        """The mounts that a container's monitor makes for the volume. For a driver with `VolumeMounts`, these mounts exist
        only while the volume is in use: see `mount`."""
        record = self.get(name)
        return await (await self._drivers(record.driver, record.made_with)).mounts(name)

    # --- uses of volumes that their drivers mount

    async def mount(self, name: str, container_id: str, users: MutableSequence[str]) -> Sequence[Mount]:
        """The mounts of the volume for a use by a container. If the driver mounts the volume on the host for this use, a
        string is appended to `users`, which the caller passes to `unmount` after the use."""
        record = self.get(name)
        driver = await self._drivers(record.driver, record.made_with)
        if not isinstance(driver, VolumeMounts):
            return await driver.mounts(name)
        return await self._uses.mount(driver, record, container_id, users)

    async def unmount(self, users: Sequence[str]) -> None:
        """End uses of volumes. Errors are logged. Uses that have ended already are ignored."""
        await self._uses.unmount(users)

    def users_for(self, container_id: str) -> Sequence[str]:
        """The uses of volumes by a container that have not ended, also those of an earlier daemon."""
        return self._uses.of(container_id) if "_uses" in vars(self) else []

    async def unmount_orphans(self, known: Callable[[str], bool]) -> None:
        """End uses by containers that do not exist any more. `known` says whether a container exists."""
        if "_uses" in vars(self):
            for container_id in self._uses.containers():
                if not known(container_id):
                    await self.unmount(self.users_for(container_id))

    # --- changes

    @asynccontextmanager
    async def _locked(self, name: str) -> AsyncIterator[None]:
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = trio.Lock()
        async with lock:
            yield

    @contextmanager
    def hold(self, names: Iterable[str]) -> Iterator[None]:
        """Protect volumes from removal and prune while a container that will use them is being created."""
        held = list(names)
        self._held.update(held)
        try:
            yield
        finally:
            self._held.subtract(held)
            self._held += Counter()  # removes counts of zero

    async def create(
        self,
        name: str = "",
        driver: str = "",
        options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> VolumeRecord:
        """Create a volume, or return the existing volume with this name and driver unchanged. Without a name, the volume
        is anonymous. Raises `Conflict` if the volume exists with another driver. Errors begin with "create NAME: ", as in
        Docker."""
        label = dict(labels or {})
        if not name:
            name = secrets.token_hex(32)
            label[ANONYMOUS] = ""
        async with self._locked(name):
            with _prefixed(f"create {name}"):
                record, _ = await self._create(name, driver, dict(options or {}), label)
                return record

    async def ensure(
        self, name: str, driver: str, options: Mapping[str, str] | None, labels: Mapping[str, str] | None
    ) -> tuple[VolumeRecord, bool]:
        """Like `create`, for a container that uses the volume by name. Also returns whether the volume is new."""
        async with self._locked(name):
            with _prefixed(f"create {name}"):
                return await self._create(name, driver, dict(options or {}), dict(labels or {}))

    async def _create(
        self, name: str, driver: str, options: dict[str, str], labels: dict[str, str]
    ) -> tuple[VolumeRecord, bool]:
        check_name(name)
        known = self._records.get(name)
        if known is not None and known.removing:
            await self._discard(known)
            known = None
        if known is not None and driver in ("", known.driver):
            backend = await self._driver(known.driver, known.made_with)
        else:
            backend = await self._driver(driver or defaults.VOLUME_DRIVER)
        if known is not None:
            if driver and driver != known.driver:
                raise Conflict(f"driver '{known.driver}' already has volume '{name}': volume name must be unique")
            return known, False
        volume = await backend.create(name, options)
        record = VolumeRecord(
            name,
            driver or defaults.VOLUME_DRIVER,
            time.time_ns(),
            volume.mountpoint,
            options,
            labels,
            backend.capabilities.scope,
            made_with=origin(backend),
        )
        try:
            await self._put(record)
        except OrlopError:
            if not isinstance(backend, VolumeMounts):  # the volume may have existed in such a driver before
                await backend.remove(name)
            raise
        self._events.publish("volume", "create", name, {"driver": record.driver})
        return record, True

    async def _driver(self, name: str, made_with: str = "") -> VolumeDriver:
        try:
            return await self._drivers(name, made_with)
        except NotFound as error:
            raise NotFound(f'error looking up volume plugin {name}: plugin "{name}" not found') from error

    async def _put(self, record: VolumeRecord) -> None:
        await self._store.commit([Put(_TABLE, record.name, encode(record))])
        self._records[record.name] = record

    async def remove(self, name: str, *, force: bool = False) -> None:
        """Remove a volume. Raises `Conflict`, with the containers' IDs, if containers use the volume. Raises `NotFound` if
        the volume does not exist, unless `force` is set. With `force`, a volume whose driver cannot be reached is removed
        from the list of volumes."""
        async with self._locked(name):
            try:
                record = self.get(name)
            except NotFound:
                if force:
                    return
                raise
            users = self._in_use(name)
            if users:
                raise Conflict(f"remove {name}: volume is in use - [{', '.join(users)}]")
            if self._held[name]:
                raise Conflict(f"remove {name}: volume is in use by a container that is being created")
            with _prefixed(f"remove {name}"):
                await self._remove(record, force=force)

    async def finish_removal(self, name: str) -> None:
        """Retry a removal that failed earlier in the driver. Does nothing for other volumes."""
        async with self._locked(name):
            record = self._records.get(name)
            if record is not None and record.removing:
                await self._remove(record)

    async def _remove(self, record: VolumeRecord, *, force: bool = False) -> None:
        marked = msgspec.structs.replace(record, removing=True)
        await self._put(marked)
        try:
            await self._discard(marked)
        except OrlopError as error:
            if not await self._is_elsewhere(record):
                raise
            if not force or not isinstance(error, (NotFound, Unavailable, DeadlineExceeded)):
                await self._put(msgspec.structs.replace(record, removing=False))
                raise
            log.warning("volume %s is removed from the list, but its driver has not removed it: %s", record.name, error)
            await self._forget(record)
        self._events.publish("volume", "destroy", record.name, {"driver": record.driver})

    async def _discard(self, record: VolumeRecord) -> None:
        """Remove the content and the row of a marked volume. If the driver fails, the mark stays. Clients no longer see the
        volume, and the next create of this name, or the next daemon, tries the removal again."""
        await (await self._drivers(record.driver, record.made_with)).remove(record.name)
        await self._forget(record)

    async def _forget(self, record: VolumeRecord) -> None:
        await self._store.commit([Delete(_TABLE, record.name)])
        self._records.pop(record.name, None)

    async def _is_elsewhere(self, record: VolumeRecord) -> bool:
        """Whether the volume belongs to another program, which may refuse to remove it, or may have ended. Such a volume
        must stay visible after a failed removal."""
        if record.driver == defaults.VOLUME_DRIVER:
            return False
        try:
            return isinstance(await self._drivers(record.driver, record.made_with), VolumeMounts)
        except OrlopError:
            return True

    async def prune(self, wanted: Filters, *, named: bool = False) -> tuple[Sequence[str], int]:
        """Remove unused volumes: see `filters.prunable`. Returns their names and the reclaimed bytes."""
        from . import filters

        accept = filters.prunable(wanted, named=named)
        if self._pruning:
            raise Conflict("a prune operation is already running")
        self._pruning = True
        deleted, reclaimed = [], 0
        try:
            users = self._users()
            for record in list(self._sorted()):
                if not accept(record) or record.name in users or self._held[record.name]:
                    continue
                size = await self._size(record)
                try:
                    await self.remove(record.name)
                except OrlopError as error:
                    log.warning("cannot prune volume %s: %s", record.name, error)
                    continue
                deleted.append(record.name)
                reclaimed += max(size, 0)
        finally:
            self._pruning = False
        self._events.publish("volume", "prune", "", {"reclaimed": str(reclaimed)})
        return deleted, reclaimed


@contextmanager
def _prefixed(what: str) -> Iterator[None]:
    """Docker's form of a volume error: "<operation> <name>: <cause>"."""
    try:
        yield
    except OrlopError as error:
        text = str(error)
        if text.startswith(f"{what}: "):
            raise
        raise type(error)(f"{what}: {text}") from error
