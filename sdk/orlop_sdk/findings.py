"""What a consistency check finds, as values. Plugins of kind `check` return them, and `orlop system check` prints them."""

from __future__ import annotations

import msgspec

from orlop_sdk.common import Drift

__all__ = ["ERROR", "INFO", "SEVERITIES", "WARNING", "Finding", "Remedy"]

ERROR, WARNING, INFO = "error", "warning", "info"
SEVERITIES = (ERROR, WARNING, INFO)
"""All severities, the worst first."""


class Remedy(msgspec.Struct, frozen=True):
    """A repair: the name of a step, and the object to which the step is applied. Only the check that returned the remedy
    interprets these two. If a driver's `audit` reported the inconsistency, `drift` is the reported value, and the driver's
    `repair` corrects the inconsistency. Equal remedies are carried out once."""

    step: str
    subject: str = ""
    drift: Drift | None = None


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One inconsistency. `severity` is "error" if data is lost or a function does not work. It is "warning" if an object is
    left over or will cause a failure, and "info" if the next start of the daemon corrects the inconsistency. `area` is the
    affected part of the daemon, `object` names the affected object, `text` says what is wrong. `repair` says what a repair
    does; "" if an administrator must correct the inconsistency. `id` is the id of an object, or "". While an operation is
    changing this object, the finding may be only temporary."""

    severity: str
    area: str
    object: str
    text: str
    repair: str = ""
    id: str = ""
    remedy: Remedy | None = None

    @property
    def identity(self) -> tuple[str, str, str]:
        """A key that is equal for the same inconsistency in two runs of the check."""
        return self.area, self.object, self.text
