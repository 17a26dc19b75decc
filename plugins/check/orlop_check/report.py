"""The answer of a check, as JSON builtins."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from orlop_sdk.findings import INFO, SEVERITIES, Finding

__all__ = ["Line", "Report", "report"]


class Line(msgspec.Struct, frozen=True):
    """A finding, as clients see it."""

    severity: str
    area: str
    object: str
    text: str
    repair: str


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer of `GET /orlop/check`. `repaired`: lines about the repairs that were made; None after a check without
    repair. `facts`: the texts of a debug bundle, by file name."""

    findings: tuple[Line, ...]
    ok: bool
    repaired: tuple[str, ...] | None = None
    facts: dict[str, str] | None = None


def report(
    findings: Iterable[Finding], repaired: Iterable[str] | None = None, facts: dict[str, str] | None = None
) -> Report:
    ordered = sorted(findings, key=lambda each: (SEVERITIES.index(each.severity), each.area, each.object))
    return Report(
        tuple(Line(each.severity, each.area, each.object, each.text, each.repair) for each in ordered),
        all(each.severity == INFO for each in ordered),
        None if repaired is None else tuple(repaired),
        facts,
    )
