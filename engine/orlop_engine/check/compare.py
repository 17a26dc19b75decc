"""Runs all comparisons on one set of facts."""

from __future__ import annotations

from orlop_sdk.findings import Finding

from . import files, rows, runs
from .facts import Facts

__all__ = ["compare"]


def compare(facts: Facts) -> list[Finding]:
    """All inconsistencies in these facts."""
    rows_read, findings = rows.read(facts.database)
    findings += rows.compare(rows_read)
    if facts.database.damage:
        return findings  # if rows are missing, all other objects look like garbage
    findings += files.compare(facts, rows_read)
    findings += runs.compare(facts, rows_read)
    return findings
