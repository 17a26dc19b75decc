"""All comparisons of one look."""

from __future__ import annotations

from . import files, rows, runs
from .facts import Facts
from .findings import Finding

__all__ = ["compare"]


def compare(facts: Facts) -> list[Finding]:
    """Everything in these facts that does not agree."""
    rows_read, findings = rows.read(facts.database)
    findings += rows.compare(facts.database, rows_read)
    if facts.database.damage:
        return findings  # with rows missing, all else would look like garbage
    findings += files.compare(facts, rows_read)
    findings += runs.compare(facts, rows_read)
    return findings
