"""What a consistency check finds, as values. Plugins of kind `check` return them, and `orlop system check` prints them."""

from __future__ import annotations

import msgspec

from orlop_sdk.common import Drift

__all__ = ["ERROR", "INFO", "SEVERITIES", "WARNING", "Finding", "Remedy"]

ERROR, WARNING, INFO = "error", "warning", "info"
SEVERITIES = (ERROR, WARNING, INFO)
"""All severities, the worst first."""


class Remedy(msgspec.Struct, frozen=True):
    """A repair: the name of a step and the object to which it is applied. Only the check that returned the remedy interprets
    them. If a driver's `audit` reported the inconsistency, `drift` is what it reported, and the driver's `repair` corrects
    it. Equal remedies are carried out once."""

    step: str
    subject: str = ""
    drift: Drift | None = None


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One inconsistency. `severity` is "error" if data is lost or a function does not work, "warning" if an object is left
    over or will cause a failure, "info" if the next start of the daemon corrects it. `area` is the affected part of the
    daemon, `object` names the affected object, `text` says what is wrong. `repair` says what a repair does; "" if an
    administrator must correct it. `id` is the id of an object; while an operation is changing this object, the finding may
    be only temporary. "" for none."""

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
