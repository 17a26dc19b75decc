"""The filters of `GET /events`."""

from __future__ import annotations

import pytest

from orlop_api_docker.event_filters import EventFilter
from orlop_kernel.events import Event


def event(type: str = "container", action: str = "start", id: str = "c0ffee", **attributes: str) -> Event:
    return Event(type, action, id, attributes, 1)


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        ({}, True),
        ({"type": ["container"]}, True),
        ({"type": ["image", "container"]}, True),
        ({"type": ["image"]}, False),
        ({"event": ["start"]}, True),
        ({"event": ["sta"]}, False),
        ({"event": ["stop", "start"]}, True),
        ({"container": ["c0f"]}, True),
        ({"container": ["web"]}, True),
        ({"container": ["eb"]}, False),
        ({"container": [""]}, True),
        ({"container": ["nope", ""]}, True),
        ({"network": ["nope"]}, False),
        ({"image": ["alpine"]}, True),
        ({"image": ["alpine:3.20"]}, True),
        ({"image": ["alpine:3.21"]}, False),
        ({"label": ["env"]}, True),
        ({"label": ["env=prod", "name"]}, True),
        ({"label": ["env=prod", "none"]}, False),
        ({"label": ["env=test"]}, False),
        ({"scope": ["local"]}, True),
        ({"scope": ["swarm"]}, False),
        ({"nosuchfilter": ["x"]}, True),
        ({"type": ["container"], "event": ["stop"]}, False),
    ],
)
def test_filters_select_events(filters: dict[str, list[str]], wanted: bool) -> None:
    happened = event(name="web-1", image="alpine:3.20", env="prod")
    assert EventFilter(filters)(happened) is wanted


def test_event_filter_without_details_matches_actions_with_details() -> None:
    for action, name in (("exec_create: sh -c x", "exec_create"), ("health_status: healthy", "health_status")):
        assert EventFilter({"event": [name]})(event(action=action))
        assert not EventFilter({"event": ["exec_die"]})(event(action=action))
    assert EventFilter({"event": ["health_status: healthy"]})(event(action="health_status: healthy"))


def test_image_filter_matches_long_and_short_names() -> None:
    pulled = event("image", "pull", "docker.io/library/alpine:3.20", name="docker.io/library/alpine")
    assert EventFilter({"image": ["alpine"]})(pulled)
    with_port = event("image", "pull", "localhost:5000/a/b@sha256:00", name="localhost:5000/a/b")
    assert EventFilter({"image": ["localhost:5000/a/b"]})(with_port)
