"""Which containers a list request asks for, and a prune. Pure: records and filters in, records out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from orlop_kernel.engine.images.listing import check, labels_match, moment
from orlop_kernel.spi import InvalidParameter, NotFound

from .container import Container

if TYPE_CHECKING:
    from .service import Containers

__all__ = ["prunable", "select"]

Filters = Mapping[str, Sequence[str]]

_STATUSES = frozenset({"created", "restarting", "running", "removing", "paused", "exited", "dead"})
_KNOWN = frozenset(
    "id name label status exited ancestor before since volume network publish expose health isolation is-task".split()
)


def select(room: Containers, *, everything: bool, limit: int, filters: Filters) -> list[Container]:
    """Newest first. Filters of one key are alternatives (labels: all of them), keys are all required."""
    for key in filters:
        if key not in _KNOWN:
            raise InvalidParameter(f"invalid filter '{key}'")
    for value in filters.get("status", ()):
        if value not in _STATUSES:
            raise InvalidParameter(f"invalid filter 'status={value}'")
    tests = [_TESTS[key](room, values) for key, values in filters.items() if key in _TESTS]
    found = sorted(room.index.values(), key=lambda item: item.record.created_ns, reverse=True)
    for key, keep_after in (("before", False), ("since", True)):
        for value in filters.get(key, ()):
            pivot = room.get(value).record.created_ns
            found = [
                item for item in found if (item.record.created_ns > pivot) is keep_after and item.record.created_ns != pivot
            ]
    implied = any(key in filters for key in ("status", "exited", "before", "since"))
    if not (everything or limit > 0 or implied):
        found = [item for item in found if item.record.state.running]
    found = [item for item in found if all(test(item) for test in tests)]
    return found[:limit] if limit > 0 else found


Test = Callable[[Container], bool]
_PRUNE_KEYS = frozenset({"until", "label", "label!"})


def prunable(filters: Filters, now: float) -> Test:
    """Which stopped containers a prune takes; `now` is Unix time, which `until` may be relative to."""
    check(filters, _PRUNE_KEYS)
    until = filters.get("until", ())
    if len(until) > 1:
        raise InvalidParameter("more than one until filter specified")
    latest = moment(until[0], now) if until else None

    def accept(item: Container) -> bool:
        record = item.record
        if record.state.running or record.removing:
            return False
        return (latest is None or record.created_ns / 1e9 <= latest) and labels_match(filters, record.config.labels)

    return accept


def _patterns(values: Sequence[str]) -> list[re.Pattern[str]]:
    try:
        return [re.compile(value) for value in values]
    except re.error as error:
        raise InvalidParameter(f"invalid filter: not a regular expression: {error}") from None


def _by_id(room: Containers, values: Sequence[str]) -> Test:
    patterns = _patterns(values)
    return lambda item: any(item.id.startswith(v) for v in values) or any(p.search(item.id) for p in patterns)


def _by_name(room: Containers, values: Sequence[str]) -> Test:
    patterns = _patterns(values)
    return lambda item: any(p.search(item.name) or p.search(f"/{item.name}") for p in patterns)


def _by_label(room: Containers, values: Sequence[str]) -> Test:
    wanted = [value.partition("=") for value in values]

    def test(item: Container) -> bool:
        labels = item.record.config.labels or {}
        return all(key in labels and (not sign or labels[key] == value) for key, sign, value in wanted)

    return test


def _by_status(room: Containers, values: Sequence[str]) -> Test:
    def test(item: Container) -> bool:
        record = item.record
        status = "removing" if record.removing and not record.state.running else record.state.status
        return status in values

    return test


def _by_exit(room: Containers, values: Sequence[str]) -> Test:
    try:
        codes = {int(value) for value in values}
    except ValueError:
        raise InvalidParameter(f"invalid filter 'exited={values[0]}'") from None
    return lambda item: item.record.state.status == "exited" and item.record.state.exit_code in codes


def _by_ancestor(room: Containers, values: Sequence[str]) -> Test:
    ids = set()
    for value in values:
        try:
            ids.add(room.engine.images.resolve(value).id)
        except NotFound:
            continue
    return lambda item: item.record.image_id in ids


def _by_volume(room: Containers, values: Sequence[str]) -> Test:
    return lambda item: any(m.name in values or m.destination in values or m.source in values for m in item.record.mounts)


def _by_network(room: Containers, values: Sequence[str]) -> Test:
    def test(item: Container) -> bool:
        networks = room.network_settings(item).get("Networks", {})
        return any(value in networks or any(n.get("NetworkID") == value for n in networks.values()) for value in values)

    return test


def _port_range(value: str) -> tuple[int, int, str]:
    ports, _, protocol = value.partition("/")
    low, _, high = ports.partition("-")
    try:
        return int(low), int(high or low), protocol or "tcp"
    except ValueError:
        raise InvalidParameter(f"invalid filter: not a port: '{value}'") from None


def _by_port(public: bool) -> Callable[[Containers, Sequence[str]], Test]:
    def make(room: Containers, values: Sequence[str]) -> Test:
        ranges = [_port_range(value) for value in values]
        key = "PublicPort" if public else "PrivatePort"

        def test(item: Container) -> bool:
            ports = room.ports(item, room.network_settings(item))
            return any(
                low <= port.get(key, -1) <= high and port["Type"] == protocol
                for port in ports
                for low, high, protocol in ranges
            )

        return test

    return make


def _by_health(room: Containers, values: Sequence[str]) -> Test:
    return lambda item: (item.health.status if item.health else "none") in values


_TESTS: dict[str, Callable[[Containers, Sequence[str]], Test]] = {
    "id": _by_id,
    "name": _by_name,
    "label": _by_label,
    "status": _by_status,
    "exited": _by_exit,
    "ancestor": _by_ancestor,
    "volume": _by_volume,
    "network": _by_network,
    "publish": _by_port(public=True),
    "expose": _by_port(public=False),
    "health": _by_health,
}
