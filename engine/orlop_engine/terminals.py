"""Sizes of terminals, as clients give them. Pure."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["rows_and_columns"]


def rows_and_columns(size: Sequence[int] | None) -> tuple[int, int]:
    """What the kernel is told: it takes 16 bits of each number (TIOCSWINSZ), and 0, "unknown", where there is none."""
    rows, columns = [*(size or ()), 0, 0][:2]
    return rows & 0xFFFF, columns & 0xFFFF
