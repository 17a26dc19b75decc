"""Volumes in the API."""

from __future__ import annotations

from typing import Any

import msgspec

from orlop_sdk.base import WireBase

__all__ = ["UsageData", "Volume", "VolumeCreateRequest", "VolumeListResponse", "VolumePruneResponse"]


class UsageData(WireBase):
    """-1 means unknown."""

    ref_count: int = -1
    size: int = -1


class Volume(WireBase):
    """`labels` and `options` are null when there are none. `usage_data` only in `GET /system/df`."""

    created_at: str
    driver: str
    labels: dict[str, str] | None
    mountpoint: str
    name: str
    options: dict[str, str] | None
    scope: str = "local"
    usage_data: UsageData | msgspec.UnsetType = msgspec.UNSET


class VolumeCreateRequest(WireBase):
    """An empty `name` asks for an anonymous volume."""

    name: str = ""
    driver: str = ""
    driver_opts: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    cluster_volume_spec: Any = None


class VolumeListResponse(WireBase):
    volumes: list[Volume]
    warnings: list[str] | None = None


class VolumePruneResponse(WireBase):
    volumes_deleted: list[str]
    space_reclaimed: int
