"""What a caller may not have of the engine: how a guard narrows what the engine does for a call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from orlop_engine.images.destinations import Refuse
from orlop_engine.images.policy import UNRESTRICTED, ImagePolicy
from orlop_engine.volumes.record import Vet

__all__ = ["NO_RESTRICTIONS", "Restrictions"]


@dataclass(frozen=True, slots=True)
class Restrictions:
    """The default is a caller who may have everything.

    `hide_host`: nothing of the host may be shown. `labels`: what is made on the way gets them as well. `check_volume` is
    called with each volume that an operation finds or makes, and raises for one that the caller may not have. `images`
    decides about names and images that exist. `refuse` makes the error for an address that the caller may not have the
    daemon connect to; None: it may have every one."""

    hide_host: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    check_volume: Vet | None = None
    images: ImagePolicy = UNRESTRICTED
    refuse: Refuse | None = None


NO_RESTRICTIONS = Restrictions()
