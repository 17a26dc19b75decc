"""Events: history, filters, slow subscribers."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import trio

from orlop_kernel.events import LOST, Event, EventBus, Subscription
from orlop_kernel.events.bus import BUFFER
from orlop_kernel.events.event import decode
from orlop_kernel.store import Put, Store


def event(type: str = "container", action: str = "start", id: str = "c0ffee", **attributes: str) -> Event:
    return Event(type, action, id, attributes, 1_700_000_000_123_456_789)


async def take(subscription: Subscription, count: int) -> list[Event]:
    return [await subscription.__anext__() for _ in range(count)]


def test_subscribers_get_events_published_after_the_subscription() -> None:
    async def main() -> None:
        bus = EventBus()
        bus.publish("container", "create", "a", {})
        subscription = bus.subscribe()
        bus.publish("container", "start", "a", {"name": "x"})
        (found,) = await take(subscription, 1)
        assert (found.action, found.attributes) == ("start", {"name": "x"})
        assert bus.listeners == 1
        subscription.close()
        with pytest.raises(StopAsyncIteration):
            await subscription.__anext__()
        assert bus.listeners == 0

    trio.run(main)


def test_subscription_without_references_is_removed() -> None:
    async def main() -> None:
        bus = EventBus()
        subscription = bus.subscribe()
        assert bus.listeners == 1
        del subscription
        assert bus.listeners == 0

    trio.run(main)


def test_subscriber_gets_past_events_only_with_since_or_until() -> None:
    async def main() -> None:
        bus = EventBus()
        for number in range(3):
            bus.publish("container", f"step-{number}", "a", {})
        times = [event.time_ns for event in bus._history]
        past = [found.action async for found in bus.subscribe(times[1], time.time_ns() - 1)]
        assert past == ["step-1", "step-2"]
        assert [found.action async for found in bus.subscribe(0, times[1])] == ["step-0", "step-1"]
        assert [found.action async for found in bus.subscribe(None, 0)] == ["step-0", "step-1", "step-2"]
        later = bus.subscribe(times[2])
        bus.publish("container", "step-3", "a", {})
        assert [found.action for found in await take(later, 2)] == ["step-2", "step-3"]

    trio.run(main)


def test_event_stream_ends_when_the_time_until_is_reached() -> None:
    async def main() -> None:
        bus = EventBus()
        subscription = bus.subscribe(0, time.time_ns() + 20_000_000)
        bus.publish("container", "start", "a", {})
        assert [found.action async for found in subscription] == ["start"]

    trio.run(main)


def test_slow_subscriber_is_told_the_number_of_lost_events() -> None:
    async def main() -> None:
        bus = EventBus()
        subscription = bus.subscribe()
        for number in range(BUFFER + 7):
            bus.publish("container", str(number), "a", {})
        found = await take(subscription, BUFFER)
        assert [item.action for item in found] == [str(number) for number in range(BUFFER)]
        (gap,) = await take(subscription, 1)
        assert (gap.type, gap.action, gap.attributes) == ("daemon", "events-lost", {"count": "7"})
        bus.publish("container", "after", "a", {})
        assert [item.action for item in await take(subscription, 1)] == ["after"]

    trio.run(main)


def test_no_event_is_lost_while_the_history_is_read() -> None:
    async def main() -> None:
        bus = EventBus()
        for number in range(BUFFER + 9):
            bus.publish("container", str(number), "a", {})
        subscription = bus.subscribe(1, None, lambda event: event.actor_id == "a")
        bus.publish("container", "now", "a", {})
        found = await take(subscription, BUFFER + 10)
        assert [item.action for item in found][-2:] == [str(BUFFER + 8), "now"]

    trio.run(main)


def test_subscriber_with_filters_is_told_of_lost_events() -> None:
    async def main() -> None:
        bus = EventBus()
        slow, quick = bus.subscribe(wanted=lambda event: event.type == "container"), bus.subscribe()
        for number in range(BUFFER + 1):
            bus.publish("container", str(number), "a", {})
            bus.publish("image", "pull", "b", {})  # filtered out, so not counted as lost
            await take(quick, 2)
        await take(slow, BUFFER)
        (gap,) = await take(slow, 1)
        assert (gap.type, gap.action, gap.attributes) == ("daemon", LOST, {"count": "1"})
        assert [event.action for event in bus._history].count(LOST) == 0
        assert bus.published == 2 * (BUFFER + 1)

    trio.run(main)


def test_event_history_is_limited_to_a_number_of_bytes() -> None:
    bus = EventBus(history_bytes=10_000)
    for number in range(20):
        bus.publish("container", str(number), "a", {"label": "x" * 1000})
    assert [event.action for event in bus._history][-1] == "19"
    assert 5 < len(bus._history) < 10
    bus.publish("container", "huge", "a", {"label": "x" * 20_000})
    assert [event.action for event in bus._history] == ["huge"]


def test_events_that_a_full_disk_cannot_store_are_stored_later_and_one_error_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with Store.open(str(tmp_path / "db")) as store:
            bus = EventBus(store, history=3)
            bus.publish("container", "before", "a", {})
            await bus.flush()
            (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
            store._connection.execute(f"PRAGMA max_page_count={pages}")
            for number in range(5):
                bus.publish("container", str(number), "a", {"label": "x" * 5000})
                await bus.flush()
            assert len([line for line in caplog.messages if "cannot store events" in line]) == 1
            store._connection.execute("PRAGMA max_page_count=100000")
            await bus.flush()
            assert "events are stored again" in caplog.messages
            assert [decode(row).action for _, row in store.load("events")] == ["2", "3", "4"]
            assert not bus._unsaved

    caplog.set_level("INFO", "orlop.events")
    trio.run(main)


def test_event_times_strictly_increase(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100, 100, 50, 200])
    bus = EventBus()
    monkeypatch.setattr("orlop_kernel.events.bus.time.time_ns", lambda: next(clock))
    for _ in range(4):
        bus.publish("image", "pull", "x", {})
    assert [event.time_ns for event in bus._history] == [100, 101, 102, 200]


def test_event_history_survives_a_restart_and_stays_bounded(tmp_path: Path) -> None:
    async def first() -> None:
        async with Store.open(str(tmp_path / "db")) as store:
            await store.commit([Put("events", "0", b"garbage")])
            bus = EventBus(store, history=5)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bus.run)
                for number in range(4):
                    bus.publish("container", str(number), "a", {"k": "v"})
                    await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            for number in range(4, 9):
                bus.publish("container", str(number), "a", {"k": "v"})
            await bus.flush()

    async def second() -> None:
        async with Store.open(str(tmp_path / "db")) as store:
            assert len(list(store.load("events"))) == 5
            bus = EventBus(store, history=5)
            past = [found async for found in bus.subscribe(1, time.time_ns())]
            assert [found.action for found in past] == ["4", "5", "6", "7", "8"]
            assert past[0].attributes == {"k": "v"}

    import trio.testing

    trio.run(first)
    trio.run(second)
