"""Restrictions on a caller. A guard sets them for a call, and the engine obeys them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import msgspec

from orlop_engine.images.policy import UNRESTRICTED, ImagePolicy
from orlop_engine.volumes.record import VolumeCheck

if TYPE_CHECKING:
    from orlop_engine.images.destinations import Refuse  # imported only for types, because the module imports httpx
    from orlop_engine.types.containers import HostConfig

__all__ = ["NO_RESTRICTIONS", "BuildRestrictions", "Restrictions"]


class BuildRestrictions(msgspec.Struct, frozen=True):
    """`domain` is the name of a build cache that only this caller's builds use. `pulls` is the policy for names that
    images get by a pull. `check_pull` raises if the caller may not pull images; `check_step` raises if a step uses
    options that the caller's containers may not use. `label` gets the labels of an image that a build makes, and returns
    the labels to use, or raises."""

    domain: str
    pulls: ImagePolicy
    check_pull: Callable[[], None]
    check_step: Callable[[HostConfig], None]
    label: Callable[[Mapping[str, str]], Mapping[str, str]]


class Restrictions(msgspec.Struct, frozen=True):
    """By default the caller has no restrictions.

    `hide_host`: `top` shows the pids inside the container, not the host's pids, and errors name no process or container
    that holds a port. `labels` are added to every object that the call creates. `check_volume` is called with each volume
    that the call finds or creates, and raises if the caller may not use this volume. `images` decides which names and
    images the caller may use. `refuse` returns the error for an address to which the daemon must not connect on behalf of
    the caller; None allows every address. `builds` are additional restrictions of builds."""

    hide_host: bool = False
    labels: Mapping[str, str] = {}
    check_volume: VolumeCheck | None = None
    images: ImagePolicy = UNRESTRICTED
    refuse: Refuse | None = None
    builds: BuildRestrictions | None = None


NO_RESTRICTIONS = Restrictions()
