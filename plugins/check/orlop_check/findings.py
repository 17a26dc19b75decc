"""What a check found, as values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from orlop_sdk import Drift

__all__ = ["ERROR", "INFO", "WARNING", "Finding", "Remedy", "report"]

ERROR, WARNING, INFO = "error", "warning", "info"
_ORDER = (ERROR, WARNING, INFO)


class Remedy(msgspec.Struct, frozen=True):
    """What `repair` is to do: the name of one of its steps, and on what. `leftover` is what a driver is to mend."""

    step: str
    subject: str = ""
    leftover: Drift | None = None


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """`severity`: "error", something is lost or does not work; "warning", something is left over or will go wrong; "info",
    the next start settles it by itself, and all is sound. `area` is the room it belongs to, `object` names the thing, `text`
    says what it means, `repair` what a repair does about it ("" = nothing, by hand). `container`: it may be a moment of this
    container's life, and no fault."""

    severity: str
    area: str
    object: str
    text: str
    repair: str = ""
    container: str = ""
    remedy: Remedy | None = None

    @property
    def identity(self) -> tuple[str, str, str]:
        """The same in two looks: the same finding."""
        return self.area, self.object, self.text

    def wire(self) -> dict[str, str]:
        return {name: getattr(self, name) for name in ("severity", "area", "object", "text", "repair")}


def report(findings: Iterable[Finding], done: Iterable[str] | None = None) -> dict[str, Any]:
    """The answer of `GET /orlop/check`. `done`: what a repair did, line by line."""
    ordered = sorted(findings, key=lambda finding: (_ORDER.index(finding.severity), finding.area, finding.object))
    answer: dict[str, Any] = {
        "findings": [finding.wire() for finding in ordered],
        "ok": all(finding.severity == INFO for finding in ordered),
    }
    if done is not None:
        answer["repaired"] = list(done)
    return answer
