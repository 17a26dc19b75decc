"""Events: published by the engine, kept across restarts, streamed by `GET /events`."""

from .bus import LOST, EventBus, Subscription
from .event import Event

__all__ = ["LOST", "Event", "EventBus", "Subscription"]
