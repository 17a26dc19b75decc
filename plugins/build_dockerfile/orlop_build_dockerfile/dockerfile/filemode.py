"""Symbolic modes of --chmod: "u=rwX,go-w"."""

from __future__ import annotations

import re

from .goformat import quote

__all__ = ["check_mode"]

_CLAUSE = re.compile(r"[ugoa]*(?:[-+=](?:[rwxXst]*|[ugo]))+")


def check_mode(text: str) -> None:
    """Raise `ValueError` if chmod(1) refuses the mode."""
    if not all(_CLAUSE.fullmatch(clause) for clause in text.split(",")):
        raise ValueError(f"invalid mode: {quote(text)}")
