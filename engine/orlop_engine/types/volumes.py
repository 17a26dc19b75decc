"""Requests for volumes."""

from __future__ import annotations

from typing import Any

from orlop_sdk.base import WireBase

__all__ = ["VolumeCreateRequest"]


class VolumeCreateRequest(WireBase):
    """An empty `name` asks for an anonymous volume."""

    name: str = ""
    driver: str = ""
    driver_opts: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    cluster_volume_spec: Any = None
