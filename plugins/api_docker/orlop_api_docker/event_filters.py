"""The `filters` of `GET /events`, compiled once per request.

Source of the rules: moby daemon/events/filter.go. All filters must match. Several values of one filter are alternatives,
except that all values of `label` must match. Unknown filters are ignored, as in moby.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from orlop_kernel.events import Event

__all__ = ["EventFilter"]

Filters = Mapping[str, Collection[str]]
Test = Callable[[Event], bool]

# A filter by object matches a prefix of the ID or of the attribute `name`, for events of all types
_OBJECTS = ("container", "network", "volume", "daemon", "plugin", "service", "node", "secret", "config")
# These actions contain a detail after a colon: "exec_create: sh", "health_status: healthy"
_PREFIX_ACTIONS = frozenset({"health_status", "exec_create", "exec_start"})


def _prefixed(text: str, values: Collection[str]) -> bool:
    """Whether the text begins with one of the values. As in Docker, an empty value matches every text, so a script that
    passes an empty variable sees all events."""
    return any(text.startswith(value) for value in values)


def familiar_name(reference: str) -> str:
    """The short name without tag and digest: `docker.io/library/alpine:3.20` is `alpine`."""
    name = reference.partition("@")[0]
    head, colon, tail = name.rpartition(":")
    if colon and "/" not in tail:
        name = head
    return name.removeprefix("docker.io/").removeprefix("library/")


def _action_test(values: Collection[str]) -> Test:
    if _PREFIX_ACTIONS.isdisjoint(values):
        return lambda event: event.action in values
    return lambda event: _prefixed(event.action, values)


def _object_test(values: Collection[str]) -> Test:
    return lambda event: _prefixed(event.actor_id, values) or _prefixed(event.attributes.get("name", ""), values)


def _image_test(values: Collection[str]) -> Test:
    def test(event: Event) -> bool:
        name = event.attributes.get("name" if event.type == "image" else "image", "")
        candidates = (event.actor_id, name, familiar_name(event.actor_id), familiar_name(name))
        return any(candidate in values for candidate in candidates)

    return test


def _label_test(values: Collection[str]) -> Test:
    wanted = [value.partition("=") for value in values]

    def test(event: Event) -> bool:
        return all(
            key in event.attributes and (not equals or event.attributes[key] == value) for key, equals, value in wanted
        )

    return test


class EventFilter:
    """A predicate that is true if an event matches."""

    def __init__(self, filters: Filters | None = None) -> None:
        self._tests: list[Test] = []
        for name, values in (filters or {}).items():
            if values and (test := self._compile(name, frozenset(values))):
                self._tests.append(test)

    @staticmethod
    def _compile(name: str, values: frozenset[str]) -> Test | None:
        if name == "event":
            return _action_test(values)
        if name == "type":
            return lambda event: event.type in values
        if name == "scope":
            return lambda event: event.scope in values
        if name == "image":
            return _image_test(values)
        if name == "label":
            return _label_test(values)
        return _object_test(values) if name in _OBJECTS else None

    def __call__(self, event: Event) -> bool:
        return all(test(event) for test in self._tests)
