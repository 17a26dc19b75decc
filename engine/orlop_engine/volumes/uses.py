"""Volumes that their drivers mount on the host (`VolumeMounts`), and the containers for which they are mounted.

A row of the table `intents` is committed before each call of `mount`, and deleted after the call of `unmount`. So after a
crash, the next daemon knows which calls of `unmount` are missing. If a driver cannot unmount a volume, for example because
its program has ended, the error is logged, and the row is deleted: the end of a container must not depend on the driver.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable, MutableSequence, Sequence
from weakref import WeakValueDictionary

import msgspec
import trio

from orlop_kernel.store import UNREADABLE, Delete, Put, Store
from orlop_sdk import DeadlineExceeded, Mount, OrlopError, VolumeDriver, VolumeMounts

from .record import USE, VolumeRecord

__all__ = ["Uses"]

log = logging.getLogger("orlop.volumes")


class Use(msgspec.Struct, frozen=True):
    """A row. Its key is `USE` and the string that the driver got as `user`."""

    container: str
    volume: str
    driver: str
    made_with: str


class Uses:
    def __init__(self, store: Store, drivers: Callable[[str, str], Awaitable[VolumeDriver]]) -> None:
        self._store = store
        self._drivers = drivers
        self._uses: dict[str, Use] = {}
        self._locks: WeakValueDictionary[str, trio.Lock] = WeakValueDictionary()

    async def load(self) -> None:
        for key, row in self._store.load("intents"):
            if key.startswith(USE):
                try:
                    self._uses[key.removeprefix(USE)] = msgspec.json.decode(row, type=Use)
                except UNREADABLE as error:
                    await self._store.quarantine("intents", key, str(error))

    def of(self, container_id: str) -> list[str]:
        """The users for whom volumes are mounted because of a container."""
        return [user for user, use in self._uses.items() if use.container == container_id]

    def containers(self) -> set[str]:
        return {use.container for use in self._uses.values()}

    async def mount(
        self, driver: VolumeMounts, record: VolumeRecord, container_id: str, users: MutableSequence[str]
    ) -> Sequence[Mount]:
        """Mount a volume for a container. Appends the new user to `users`, which the caller passes to `unmount`, also if
        this call is cancelled. After an error, the volume may be mounted nevertheless, so `unmount` is called, as by
        dockerd. If the driver hangs, only the removal of the container or the next daemon calls `unmount`."""
        user = secrets.token_hex(32)
        use = Use(container_id, record.name, record.driver, record.made_with)
        await self._store.commit([Put("intents", USE + user, msgspec.json.encode(use))])
        self._uses[user] = use
        users.append(user)
        try:
            return await driver.mount(record.name, user)
        except OrlopError as error:
            users.remove(user)
            if not isinstance(error, DeadlineExceeded):
                await self.unmount([user])
            raise

    async def unmount(self, users: Iterable[str]) -> None:
        """End uses. Errors are logged. Uses that have ended already are ignored."""
        for user in list(users):
            lock = self._locks.setdefault(user, trio.Lock())
            async with lock:
                if (use := self._uses.get(user)) is not None:
                    await self._unmount(use, user)

    async def _unmount(self, use: Use, user: str) -> None:
        try:
            driver = await self._drivers(use.driver, use.made_with)
            if isinstance(driver, VolumeMounts):
                await driver.unmount(use.volume, user)
        except OrlopError as error:
            log.warning("cannot unmount volume %s of container %s: %s", use.volume, use.container[:12], error)
        try:
            await self._forget(user)
        except OrlopError as error:
            log.warning("cannot record that volume %s is unmounted: %s", use.volume, error)

    async def _forget(self, user: str) -> None:
        self._uses.pop(user, None)
        await self._store.commit([Delete("intents", USE + user)])
