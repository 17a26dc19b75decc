"""Events: published by the engine, kept over restarts, streamed by `GET /events`."""

from .bus import LOST, EventBus, Subscription
from .event import Event
from .filters import EventFilter

__all__ = ["LOST", "Event", "EventBus", "EventFilter", "Subscription"]
