"""The history and times of a built image's configuration."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orlop_build_dockerfile.export.config import BuiltLayer, complete

OLD = "2001-09-09T01:46:40Z"


def history(entries: list[dict[str, Any]], layers: list[BuiltLayer], *, now: float, epoch: int | None = None) -> Any:
    config = json.dumps({"os": "linux", "architecture": "amd64", "config": {}, "history": entries}).encode()
    found = json.loads(complete(config, layers, platform="linux/amd64", epoch=epoch, now=now))
    assert found["rootfs"]["diff_ids"] == [layer.diff_id for layer in layers]
    return [entry["created"] for entry in found["history"]], found["created"]


BASE = {"created": OLD, "created_by": "base"}
LAYER = {"created_by": "RUN"}
METADATA = {"created_by": "ENV", "empty_layer": True}


@pytest.mark.parametrize(
    ("entries", "created"),
    [
        ([BASE, LAYER, METADATA], [OLD, "1970-01-01T00:01:40Z", "1970-01-01T00:01:40Z"]),
        ([BASE, METADATA, LAYER, METADATA], [OLD, *["1970-01-01T00:01:40Z"] * 3]),
        ([METADATA, LAYER, METADATA, LAYER], [*["1970-01-01T00:01:40Z"] * 3, "1970-01-01T00:03:20Z"]),
        ([BASE, METADATA], [OLD, OLD]),
    ],
)
def test_history_entries_without_a_layer_get_the_time_of_the_nearest_layer(
    entries: list[dict[str, Any]], created: list[str]
) -> None:
    """As a result, the image of a fully cached build does not depend on the time of the build."""
    number = sum("empty_layer" not in entry for entry in entries)
    times = iter((100.0, 200.0))
    layers = [BuiltLayer(f"sha256:{n}", 0 if entries[0] is BASE and n == 0 else next(times)) for n in range(number)]
    for now in (1000.0, 2000.0):
        assert history(entries, layers, now=now) == (created, created[-1])


def test_creation_time_of_an_image_without_layers_is_the_time_of_the_build() -> None:
    assert history([METADATA], [], now=100.0) == (["1970-01-01T00:01:40Z"], "1970-01-01T00:01:40Z")


def test_source_date_epoch_limits_all_times_in_the_history_of_an_image() -> None:
    """Earlier times stay unchanged."""
    layers = [BuiltLayer("sha256:0"), BuiltLayer("sha256:1", 2e9)]
    assert history([BASE, LAYER, METADATA], layers, now=3e9, epoch=1_500_000_000) == (
        [OLD, "2017-07-14T02:40:00Z", "2017-07-14T02:40:00Z"],
        "2017-07-14T02:40:00Z",
    )
