"""The configuration of an image. It is the frontend's configuration, with the layers that were made, and a history that
matches the layers.

Pure functions. History entries without `empty_layer` belong to the layers in order (OCI image specification).
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from orlop_build_dockerfile.contracts import BuildFailed

__all__ = ["BuiltLayer", "complete"]


class BuiltLayer(msgspec.Struct, frozen=True):
    """A layer. `created` is the time when the layer was made (seconds since 1970), 0 if unknown, as for a layer of the base
    image."""

    diff_id: str
    created: float = 0
    description: str = ""


def timestamp(seconds: float) -> str:
    """Format a time as RFC 3339 with nanoseconds, like Go."""
    whole, fraction = divmod(round(seconds * 1_000_000_000), 1_000_000_000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
    return text + (f".{fraction:09d}".rstrip("0") if fraction else "") + "Z"


def complete(
    config: bytes,
    layers: Sequence[BuiltLayer],
    *,
    platform: str,
    epoch: int | None,
    now: float,
    base: bytes = b"",
    cache: bytes = b"",
) -> bytes:
    """The JSON of the image's configuration. `epoch` is SOURCE_DATE_EPOCH, the latest time that may be in the image (except
    in the history of its base image). `base` is the configuration of the base image. `cache` is an inline cache. Raises
    `BuildFailed` if `config` is not a configuration."""
    document = _document(config, platform)
    document["rootfs"] = {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]}
    history = [entry for entry in document.get("history") or [] if isinstance(entry, dict)]
    document["history"] = history = _fit(history, layers, now)
    if cache:
        document["moby.buildkit.cache.v0"] = base64.b64encode(cache).decode()
    if epoch is not None:
        for entry in history[_inherited(history, base) :]:
            entry["created"] = min(entry.get("created") or timestamp(epoch), timestamp(epoch))
        document["created"] = timestamp(epoch)
    elif not document.get("created"):
        times = [entry["created"] for entry in history if entry.get("created")]
        document["created"] = times[-1] if times else timestamp(now)
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def _inherited(history: Sequence[Any], base: bytes) -> int:
    """The number of history entries that come from the base image."""
    try:
        known = json.loads(base).get("history") or [] if base else []
    except (ValueError, AttributeError):
        return 0
    count = 0
    while count < min(len(history), len(known)) and history[count] == known[count]:
        count += 1
    return count


def _document(config: bytes, platform: str) -> dict[str, Any]:
    try:
        document = json.loads(config) if config else {}
    except ValueError as error:
        raise BuildFailed(f"failed to parse image config: {error}") from None
    if not isinstance(document, dict):
        raise BuildFailed("failed to parse image config: it is not an object")
    if not document.get("os"):
        parts = platform.split("/")
        document["os"], document["architecture"] = parts[0], parts[1]
        if len(parts) > 2:
            document["variant"] = parts[2]
    document.setdefault("config", {})
    return document


def _fit(history: list[dict[str, Any]], layers: Sequence[BuiltLayer], now: float) -> list[dict[str, Any]]:
    """The history with one entry for each layer. Entries are added or marked as empty if their number differs from the
    number of layers. Missing times are set."""
    found, used = [], 0
    for entry in history:
        if not entry.get("empty_layer"):
            if used == len(layers):
                entry = {**entry, "empty_layer": True}  # the step has made no layer
            else:
                layer = layers[used]
                used += 1
                if not entry.get("created"):
                    entry = {"created": timestamp(layer.created or now), **entry}
        found.append(entry)
    for layer in layers[used:]:
        created = timestamp(layer.created or now)
        comment = "buildkit.exporter.image.v0"
        found.append({"created": created, "created_by": layer.description or comment, "comment": comment})
    _date(found, timestamp(now))
    return found


def _date(history: list[dict[str, Any]], now: str) -> None:
    """Set the time of all entries without a layer. Such an entry gets the time of the last layer before it. If there is no
    layer before it, it gets the time of the first new layer. So a build whose steps are all cached results in the same image
    again (as in buildkit exporter/containerimage/writer.go)."""
    times = [entry.get("created") for entry in history]
    new = next((number for number, time in enumerate(times) if not time), len(times))
    last = next((time for time in times[new:] if time), None) or next((time for time in reversed(times) if time), now)
    for number, entry in enumerate(history):
        if times[number] and number > new:
            last = times[number]
        elif not times[number]:
            entry["created"] = last
