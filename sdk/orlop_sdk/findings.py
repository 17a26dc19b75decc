"""What a consistency check finds, as values. Plugins of kind `check` return them, and `orlop system check` prints them."""

from __future__ import annotations

import msgspec

from orlop_sdk.common import Drift

__all__ = ["ERROR", "INFO", "SEVERITIES", "WARNING", "Finding", "Remedy"]

ERROR, WARNING, INFO = "error", "warning", "info"
SEVERITIES = (ERROR, WARNING, INFO)
"""The worst first."""


class Remedy(msgspec.Struct, frozen=True):
    """A repair, private to the check that returned it: the name of a step and its subject. `drift` is the drift that a
    driver is to repair. Equal remedies are carried out once."""

    step: str
    subject: str = ""
    drift: Drift | None = None


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One inconsistency. `severity`: "error", something is lost or does not work; "warning", something is left over or will
    fail; "info", the next start corrects it. `area` is the part of the daemon, `object` names the thing, `text` says what is
    wrong, `repair` what a repair would do ("": nothing; an administrator must correct it). `id` is the object that an
    operation may be changing just now, which would explain the finding; "" for none."""

    severity: str
    area: str
    object: str
    text: str
    repair: str = ""
    id: str = ""
    remedy: Remedy | None = None

    @property
    def identity(self) -> tuple[str, str, str]:
        """Two runs of the check have found the same inconsistency if this is equal."""
        return self.area, self.object, self.text
