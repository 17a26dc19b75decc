"""The restrictions that a guard has set for a call."""

from __future__ import annotations

from orlop_engine.restrictions import NO_RESTRICTIONS, Restrictions
from orlop_kernel.routing.call import Call

__all__ = ["restrictions"]


def restrictions(call: Call) -> Restrictions:
    """The call's restrictions; empty restrictions if no guard has set any."""
    found: Restrictions | None = call.restrictions
    return found or NO_RESTRICTIONS
