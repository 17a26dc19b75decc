"""Volumes in answers of the API."""

from __future__ import annotations

from typing import Any

import msgspec

from orlop_engine.volumes.record import VolumeRecord
from orlop_sdk.base import WireBase, rfc3339

__all__ = ["UsageData", "Volume", "VolumeListResponse", "VolumePruneResponse", "volume_view"]

_SECOND = 1_000_000_000


class UsageData(WireBase):
    """The size and the number of users of a volume. -1 means unknown."""

    ref_count: int = -1
    size: int = -1


class Volume(WireBase):
    """`labels` and `options` are null if the volume has none. `status` is information of the volume's driver, only in the
    answer of inspect. `usage_data` is only set in `GET /system/df`."""

    created_at: str
    driver: str
    labels: dict[str, str] | None
    mountpoint: str
    name: str
    options: dict[str, str] | None
    scope: str = "local"
    status: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    usage_data: UsageData | msgspec.UnsetType = msgspec.UNSET


class VolumeListResponse(WireBase):
    volumes: list[Volume]
    warnings: list[str] | None = None


class VolumePruneResponse(WireBase):
    volumes_deleted: list[str]
    space_reclaimed: int


def volume_view(record: VolumeRecord, usage: UsageData | msgspec.UnsetType = msgspec.UNSET) -> Volume:
    """The volume as the API shows it. The time is in whole seconds, as in Docker."""
    return Volume(
        created_at=rfc3339(record.created_ns // _SECOND * _SECOND),
        driver=record.driver,
        labels=dict(record.labels) or None,
        mountpoint=record.mountpoint,
        name=record.name,
        options=dict(record.options) or None,
        scope=record.scope,
        usage_data=usage,
    )
