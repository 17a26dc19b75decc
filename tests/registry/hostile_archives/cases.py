"""The list of cases."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

__all__ = ["CASES", "Case", "case"]


@dataclass(frozen=True)
class Case:
    """`error` is a pattern for the whole error; None if the archive can be loaded. `names` are then the names of the loaded
    images ("" stands for an image ID)."""

    name: str
    body: Callable[[], Iterable[bytes]]
    error: str | None
    names: tuple[str, ...] = ("app:1",)

    def fits(self, error: str) -> bool:
        return not error if self.error is None else re.fullmatch(self.error, error, re.DOTALL) is not None


CASES: list[Case] = []


def case(
    name: str, body: bytes | Callable[[], Iterable[bytes]], error: str | None, names: tuple[str, ...] = ("app:1",)
) -> None:
    CASES.append(Case(name, (lambda: [body]) if isinstance(body, bytes) else body, error, names))
