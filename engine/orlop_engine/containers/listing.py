"""Select containers for list and prune requests, without I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from orlop_engine.images.listing import check, labels_match, moment
from orlop_engine.patterns import compiled
from orlop_sdk import InvalidParameter, NotFound
from orlop_sdk.numbers import natural

from .container import Container
from .details import networks_of, shown_mounts
from .ports import Ports
from .state import PHASES

__all__ = ["prunable", "select"]

Filters = Mapping[str, Sequence[str]]

_STATUSES = PHASES | {"removing"}
_HEALTH = frozenset({"none", "starting", "healthy", "unhealthy"})


def select(ports: Ports, *, everything: bool, limit: int, filters: Filters) -> list[Container]:
    """The containers that match all filters, newest first. If a filter has several values, a container must match one of
    them; for the filters `label`, `before` and `since`, it must match all of them. A filter without values is ignored.
    Stopped containers are included only with `everything`, a limit or a `status` filter."""
    for key in filters:
        if key not in _KNOWN:
            raise InvalidParameter(f"invalid filter '{key}'")
    wanted = {key: values for key, values in filters.items() if values}
    for value in wanted.get("status", ()):
        if value not in _STATUSES:
            raise InvalidParameter(f"invalid filter 'status={value}'")
    tests = [_TESTS[key](ports, values) for key, values in wanted.items() if key in _TESTS]
    if "publish" in wanted or "expose" in wanted:
        tests.append(_by_port(ports, wanted.get("publish", ()), wanted.get("expose", ())))
    found = sorted(ports.index.by_id.values(), key=lambda item: item.record.created_ns, reverse=True)
    for key, keep_after in (("before", False), ("since", True)):
        for value in wanted.get(key, ()):
            pivot = ports.index.get(value).record.created_ns
            found = [
                item for item in found if (item.record.created_ns > pivot) is keep_after and item.record.created_ns != pivot
            ]
    if not (everything or limit > 0 or "status" in wanted):
        found = [item for item in found if item.record.state.running]
    found = [item for item in found if all(test(item) for test in tests)]
    return found[:limit] if limit > 0 else found


Test = Callable[[Container], bool]
_PRUNE_KEYS = frozenset({"until", "label", "label!"})


def prunable(filters: Filters, now: float) -> Test:
    """Return a function that tells whether a prune removes a container. `now` is the current Unix time, because the value of
    the filter `until` may be relative to the current time."""
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


def _by_id(ports: Ports, values: Sequence[str]) -> Test:
    return lambda item: any(item.id.startswith(value) for value in values)


def _by_name(ports: Ports, values: Sequence[str]) -> Test:
    patterns = list(filter(None, map(compiled, values)))

    def test(item: Container) -> bool:
        names = (item.name, f"/{item.name}")
        return any(name in values for name in names) or any(p.search(name) for p in patterns for name in names)

    return test


def _by_label(ports: Ports, values: Sequence[str]) -> Test:
    wanted = [value.partition("=") for value in values]

    def test(item: Container) -> bool:
        labels = item.record.config.labels or {}
        return all(key in labels and (not sign or labels[key] == value) for key, sign, value in wanted)

    return test


def _by_status(ports: Ports, values: Sequence[str]) -> Test:
    def test(item: Container) -> bool:
        record = item.record
        status = "removing" if record.removing and not record.state.running else record.state.status
        return status in values

    return test


def _by_exit(ports: Ports, values: Sequence[str]) -> Test:
    try:
        codes = {int(value) for value in values}
    except ValueError:
        raise InvalidParameter(f"invalid filter 'exited={values[0]}'") from None
    return lambda item: item.record.state.status == "exited" and item.record.state.exit_code in codes


def _by_ancestor(ports: Ports, values: Sequence[str]) -> Test:
    ids: set[str] = set()
    for value in values:
        try:
            ids.update(image.id for image in ports.images.all_platforms(value))
        except NotFound:
            continue
    return lambda item: item.record.image_id in ids


def _by_volume(ports: Ports, values: Sequence[str]) -> Test:
    return lambda item: any(
        mount.destination in values or (mount.name or mount.source) in values for mount in shown_mounts(item.record)
    )


def _by_network(ports: Ports, values: Sequence[str]) -> Test:
    def test(item: Container) -> bool:
        endpoints = networks_of(ports.networks, item).endpoints
        ids = [endpoint.network_id for endpoint in endpoints.values()]
        return any(value in endpoints or any(each.startswith(value) for each in ids) for value in values)

    return test


def _port_range(key: str, value: str) -> tuple[int, int, str]:
    ports, _, protocol = value.partition("/")
    low, dash, high = ports.partition("-")
    first, last = natural(low, 65535), natural(high if dash else low, 65535)
    if first is None or last is None or last < first:
        raise InvalidParameter(f"error while looking up for {key} {value}: it is not a port or a range of ports")
    return first, last, protocol.lower() or "tcp"


def _in_range(port: int, protocol: str, ranges: Sequence[tuple[int, int, str]]) -> bool:
    return any(low <= port <= high and protocol == wanted for low, high, wanted in ranges)


def _by_port(ports: Ports, published: Sequence[str], exposed: Sequence[str]) -> Test:
    """The filters `publish` and `expose`. A container matches if one of its ports is selected by one of the two filters."""
    wanted_public = [_port_range("publish", value) for value in published]
    wanted_private = [_port_range("expose", value) for value in exposed]

    def test(item: Container) -> bool:
        if not item.record.state.running:
            return False
        for port, bindings in networks_of(ports.networks, item).ports.items():
            number, _, protocol = port.partition("/")
            if _in_range(int(number), protocol, wanted_private):
                return True
            if any(_in_range(binding.host_port, protocol, wanted_public) for binding in bindings):
                return True
        return False

    return test


def _by_health(ports: Ports, values: Sequence[str]) -> Test:
    for value in values:
        if value not in _HEALTH:
            raise InvalidParameter(f"unrecognized filter value for health: {value}")
    return lambda item: (item.health.status if item.health else "none") in values


def _by_task(ports: Ports, values: Sequence[str]) -> Test:
    """The filter `is-task`. Orlop has no swarm, so no container is a task."""
    if len(values) != 1 or values[0].lower() not in ("1", "true", "0", "false"):
        raise InvalidParameter(f"invalid filter 'is-task=[{' '.join(values)}]'")
    return lambda item: values[0].lower() in ("0", "false")


_TESTS: dict[str, Callable[[Ports, Sequence[str]], Test]] = {
    "id": _by_id,
    "name": _by_name,
    "label": _by_label,
    "status": _by_status,
    "exited": _by_exit,
    "ancestor": _by_ancestor,
    "volume": _by_volume,
    "network": _by_network,
    "health": _by_health,
    "is-task": _by_task,
}
_KNOWN = _TESTS.keys() | {"before", "since", "publish", "expose", "isolation"}
"""The function `select` applies the first four filters. `isolation` has no effect, as in dockerd on Linux."""
