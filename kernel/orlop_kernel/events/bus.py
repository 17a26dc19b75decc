"""Publishes events to subscribers and keeps their history.

The bus owns the history: the last `HISTORY` events (fewer if they are large), in memory and in the store's table `events`.
`publish` never waits: a task of the daemon writes events to the disk in batches, and each subscriber has a bounded buffer. A
subscriber that falls behind is told how many events it lost. A crash loses only the events of the last tenth of a second.
While the disk is full, no event is saved.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from weakref import WeakSet

import trio

from orlop_kernel.store import UNREADABLE, Delete, Put, Store
from orlop_sdk.errors import OrlopError

from .event import Event, decode, encode

__all__ = ["BUFFER", "HISTORY", "HISTORY_BYTES", "LOST", "EventBus", "Subscription"]

HISTORY = 4096
HISTORY_BYTES = 8 << 20  # an event contains the labels of its object, which may have any length
BUFFER = 1024  # events; Docker's limit: a subscriber that is further behind loses events
LOST = "events-lost"
"""An event of type `daemon` with this action tells a subscriber that it lost events at this point; the attribute `count` has
their number. The event bypasses the filters, goes to that subscriber only, and is not in the history."""

_GATHER = 0.1
_AGAIN = 2.0
_log = logging.getLogger("orlop.events")


def _key(event: Event) -> str:
    return f"{event.time_ns:020d}"


Filter = Callable[[Event], bool]


def _every(_event: Event) -> bool:
    return True


class Subscription:
    """An async iterator over the events of one subscription. The iteration ends at the time `until_ns`. To unsubscribe,
    close or drop it."""

    def __init__(self, wanted: Filter, past: list[Event], until_ns: int, live: bool) -> None:
        self._wanted = wanted
        self._past = deque(past)
        self._waiting: deque[Event] = deque()
        self._until_ns = until_ns
        self._live = live
        self._lost = 0
        self._wake = trio.Event()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Event:
        while not (self._past or self._waiting):
            if self._lost:
                lost, self._lost = self._lost, 0
                return Event("daemon", LOST, "", {"count": str(lost)}, time.time_ns())
            if not self._live:
                raise StopAsyncIteration
            await self._sleep()
        await trio.lowlevel.checkpoint_if_cancelled()
        return (self._past or self._waiting).popleft()

    async def _sleep(self) -> None:
        """Wait until an event is buffered, the subscription is closed, or the time `until_ns` is reached."""
        if not self._until_ns:
            await self._wake.wait()
            return
        with trio.move_on_after(max(0.0, (self._until_ns - time.time_ns()) / 1e9)) as scope:
            await self._wake.wait()
        if scope.cancelled_caught:
            self._live = False

    def offer(self, event: Event) -> None:
        """Buffer an event; called by the bus. Never waits: events that do not fit are counted, and an event `LOST` in their
        place reports the number."""
        if not self._live or not self._wanted(event):
            return
        if self._lost or len(self._waiting) >= BUFFER:
            self._lost += 1
            return
        self._waiting.append(event)
        self._notify()

    def close(self) -> None:
        """End the subscription. Events in the buffer are still delivered; new events are not added."""
        self._live = False
        self._notify()

    def _notify(self) -> None:
        self._wake.set()
        self._wake = trio.Event()


class EventBus:
    """Publish and subscribe. Without a store, history lasts as long as the process (tests, embedded use)."""

    def __init__(self, store: Store | None = None, *, history: int = HISTORY, history_bytes: int = HISTORY_BYTES) -> None:
        self._store = store
        self._limit, self._byte_limit = history, history_bytes
        self._history: deque[Event] = deque()
        self._sizes: deque[int] = deque()  # the encoded size of each event of the history
        self._bytes = 0
        self._subscriptions: WeakSet[Subscription] = WeakSet()
        self._unsaved: dict[str, bytes | None] = {}  # rows to write; None deletes the row
        self._behind = False
        self._work = trio.Event()
        self._last_ns = 0
        self.published = 0
        """The number of events since the daemon started."""
        if store:
            self._load(store)

    def _load(self, store: Store) -> None:
        for key, row in store.load("events"):
            try:
                self._keep(decode(row), len(row))
            except UNREADABLE:
                self._unsaved[key] = None  # unreadable history is deleted rather than quarantined: no state depends on it
        if self._history:
            self._last_ns = self._history[-1].time_ns

    def _keep(self, event: Event, size: int) -> None:
        """Append to the history and drop the oldest events beyond its limits."""
        self._history.append(event)
        self._sizes.append(size)
        self._bytes += size
        while len(self._history) > self._limit or (self._bytes > self._byte_limit and len(self._history) > 1):
            self._bytes -= self._sizes.popleft()
            oldest = _key(self._history.popleft())
            if self._unsaved.pop(oldest, None) is None:  # the event was written already, so its row must be deleted
                self._unsaved[oldest] = None

    def publish(self, type: str, action: str, actor_id: str, attributes: Mapping[str, str]) -> None:
        """Deliver an event to all subscribers now. A task saves it a moment later. Event times never decrease, even if the
        clock is set back."""
        self._last_ns = max(time.time_ns(), self._last_ns + 1)
        event = Event(type, action, actor_id, dict(attributes), self._last_ns)
        self.published += 1
        row = encode(event)
        self._unsaved[_key(event)] = row
        self._keep(event, len(row))
        for subscription in list(self._subscriptions):
            subscription.offer(event)
        self._work.set()

    def subscribe(
        self,
        since_ns: int | None = None,
        until_ns: int | None = None,
        wanted: Filter = _every,
    ) -> Subscription:
        """Subscribe to new events. With `since_ns` or `until_ns` (Unix time), past events come first, and no event between
        them and the new events is missing. If `until_ns` is in the past, only past events come; `until_ns=0` means
        until now."""
        past: list[Event] = []
        if since_ns is not None or until_ns is not None:
            since, end = since_ns or 0, until_ns or self._last_ns
            past = [event for event in self._history if since <= event.time_ns <= end and wanted(event)]
        live = until_ns is None or until_ns > time.time_ns()
        subscription = Subscription(wanted, past, until_ns or 0, live)
        if live:
            self._subscriptions.add(subscription)
        return subscription

    @property
    def listeners(self) -> int:
        """The number of subscriptions, `NEventsListener` of `GET /info`."""
        return sum(1 for subscription in self._subscriptions if subscription._live)

    def close_subscriptions(self) -> None:
        """End all subscriptions, when the daemon stops serving."""
        for subscription in list(self._subscriptions):
            subscription.close()

    def _operations(self, batch: Mapping[str, bytes | None]) -> Iterator[Put | Delete]:
        for key, row in batch.items():
            yield Delete("events", key) if row is None else Put("events", key, row)

    async def flush(self) -> None:
        """Write unsaved events to the store. If this fails, they are written with the next batch. They are lost only if no
        write succeeds until the daemon exits."""
        batch, self._unsaved = self._unsaved, {}
        if not (self._store and batch):
            return
        try:
            await self._store.commit([*self._operations(batch)])
        except OrlopError as error:
            self._unsaved = {**batch, **self._unsaved}
            if not self._behind:
                _log.warning("cannot store events, so a restart of the daemon loses them: %s", error)
            self._behind = True
        else:
            if self._behind:
                _log.info("events are stored again")
            self._behind = False

    async def run(self) -> None:
        """The task that writes events. It commits all events of a tenth of a second together, because each commit delays the
        commits that users wait for, and a start of a container makes three events. `kill -9` loses uncommitted events."""
        while True:
            if not self._behind:
                await self._work.wait()
            await trio.sleep(_AGAIN if self._behind else _GATHER)
            self._work = trio.Event()
            await self.flush()
