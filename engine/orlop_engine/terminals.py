"""Terminal sizes from clients."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["rows_and_columns"]


def rows_and_columns(size: Sequence[int] | None) -> tuple[int, int]:
    """Returns (rows, columns) as 16-bit numbers for the kernel (TIOCSWINSZ). A missing value becomes 0, which means
    "unknown"."""
    rows, columns = [*(size or ()), 0, 0][:2]
    return rows & 0xFFFF, columns & 0xFFFF
