"""Findings about the database itself: damage, and quarantined rows."""

from __future__ import annotations

from collections.abc import Iterator

from orlop_kernel.store import Examined
from orlop_sdk.findings import ERROR, WARNING, Finding

__all__ = ["compare"]


def compare(database: Examined) -> Iterator[Finding]:
    for line in database.damage:
        yield Finding(
            severity=ERROR,
            area="database",
            object="file orlop.db",
            text=f"is damaged: {line}. The next start renames the file and copies the readable rows to a new database",
        )
    for name in database.damaged_files:
        yield Finding(
            severity=WARNING,
            area="database",
            object=f"file {name}",
            text="is a damaged database that an earlier start of the daemon renamed. While this file exists, objects "
            "without a row are kept",
        )
    for table, key, reason in database.quarantined:
        yield Finding(
            severity=ERROR,
            area="database",
            object=f"quarantined row {table}/{key[:200].encode('utf-8', 'replace').decode()}",
            text=f"could not be used: {reason}. Each start of the daemon tries to read the row again. Its files are "
            "kept. `orlop system check --forget` drops the row",
        )
