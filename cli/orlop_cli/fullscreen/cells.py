"""Text in the cells of a terminal: a wide character takes two cells, a combining character takes none."""

from __future__ import annotations

import functools
import unicodedata

__all__ = ["cut", "fit", "printable", "width", "wrap"]

_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
_FORMAT = ("Cf", "Cs", "Zl", "Zp")  # invisible characters: some of them change the direction of the text


def printable(text: str) -> str:
    """Escape the characters that would change the terminal's state or the order of the text. Tabs become spaces."""
    if text.isascii() and text.isprintable():
        return text
    text = text.expandtabs(8).translate(_CONTROL)
    return "".join(f"\\u{ord(char):04x}" if unicodedata.category(char) in _FORMAT else char for char in text)


@functools.lru_cache(4096)
def _cells(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def width(text: str) -> int:
    """The number of cells of a printable text."""
    return len(text) if text.isascii() else sum(map(_cells, text))


def cut(text: str, cells: int) -> str:
    """The longest beginning of a text that is not wider than `cells`."""
    if text.isascii():
        return text[: max(cells, 0)]
    used = 0
    for at, char in enumerate(text):
        used += _cells(char)
        if used > cells:
            return text[:at]
    return text


def fit(text: str, cells: int, right: bool = False) -> str:
    """The text, cut or padded to exactly `cells`."""
    text = cut(text, cells)
    padding = " " * (cells - width(text))
    return padding + text if right else text + padding


def wrap(text: str, cells: int) -> list[str]:
    """Split a printable text into lines of at most `cells`; at least one line. As on a terminal, a line may end within a
    word, so that a long line can be copied."""
    if text.isascii():
        return [text[at : at + cells] for at in range(0, len(text) or 1, cells)]
    lines, start, used = [], 0, 0
    for at, char in enumerate(text):
        size = _cells(char)
        if used + size > cells and at > start:
            lines.append(text[start:at])
            start, used = at, 0
        used += size
    return [*lines, text[start:]]
