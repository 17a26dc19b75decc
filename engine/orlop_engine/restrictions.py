"""Restrictions on a caller: how a guard limits what the engine does for one call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from orlop_engine.images.policy import UNRESTRICTED, ImagePolicy
from orlop_engine.volumes.record import VolumeCheck

if TYPE_CHECKING:
    from orlop_engine.images.destinations import Refuse  # which imports httpx

__all__ = ["NO_RESTRICTIONS", "Restrictions"]


class Restrictions(msgspec.Struct, frozen=True):
    """By default the caller has no restrictions.

    `hide_host`: `top` shows pids as in the container, not the host's. `labels`: added to every object that the call creates.
    `check_volume` is called with each volume that an operation finds or creates, and raises if the caller may not use
    it. `images` decides which names and images the caller may use. `refuse` returns the error for an address to which
    the daemon must not connect for the caller; None allows every address."""

    hide_host: bool = False
    labels: Mapping[str, str] = {}
    check_volume: VolumeCheck | None = None
    images: ImagePolicy = UNRESTRICTED
    refuse: Refuse | None = None


NO_RESTRICTIONS = Restrictions()
