"""The results of a check, as values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from orlop_sdk import Drift

__all__ = ["ERROR", "INFO", "WARNING", "Finding", "Remedy", "report"]

ERROR, WARNING, INFO = "error", "warning", "info"
_ORDER = (ERROR, WARNING, INFO)


class Remedy(msgspec.Struct, frozen=True):
    """A repair step: its name and its subject. `drift` is the drift that a driver is to repair."""

    step: str
    subject: str = ""
    drift: Drift | None = None


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One inconsistency. `severity`: "error", something is lost or does not work; "warning", something is left over or will
    fail; "info", the next start settles it. `area` is the part of the engine, `object` names the thing, `text` says what is
    wrong, `repair` what a repair does about it ("" = nothing; fix it by hand). `container`: this container may be changing
    just now, which would explain the finding."""

    severity: str
    area: str
    object: str
    text: str
    repair: str = ""
    container: str = ""
    remedy: Remedy | None = None

    @property
    def identity(self) -> tuple[str, str, str]:
        """Findings of two checks are the same when this is equal."""
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
