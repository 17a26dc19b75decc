"""Table layout of Go's text/tabwriter with Docker's settings: minimum width 10, padding 3, spaces."""

from __future__ import annotations

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, without the time that its import takes
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


MINIMUM, PADDING = 10, 3


def layout(lines: Sequence[Sequence[str]], minimum: int = MINIMUM, padding: int = PADDING) -> str:
    """The text of a table. The last cell of a line is never padded. A column is a block of consecutive lines whose cell in
    it is followed by another cell, so a short line ends the column, as in tabwriter."""
    if any("\n" in cell for cells in lines for cell in cells):
        lines = list(_broken(lines))
    widths = _widths(lines, minimum, padding)
    out: list[str] = []
    for cells, padded in zip(lines, widths, strict=True):
        out.append("".join(cell + " " * (width - len(cell)) for cell, width in zip(cells, padded, strict=False)))
        out.append(cells[-1] if cells else "")
        out.append("\n")
    return "".join(out)


def _broken(lines: Sequence[Sequence[str]]) -> Iterator[list[str]]:
    """A newline within a cell ends the line, as in tabwriter."""
    for cells in lines:
        line: list[str] = []
        for cell in cells:
            first, *rest = cell.split("\n")
            line.append(first)
            for part in rest:
                yield line
                line = [part]
        yield line


def _widths(lines: Sequence[Sequence[str]], minimum: int, padding: int) -> list[list[int]]:
    """For each line, the widths of all its cells but the last."""
    widths: list[list[int]] = [[] for _ in lines]
    columns = max((len(cells) for cells in lines), default=0)
    for column in range(columns - 1):
        start = 0
        while start < len(lines):
            if len(lines[start]) <= column + 1:
                start += 1
                continue
            stop = start
            while stop < len(lines) and len(lines[stop]) > column + 1:
                stop += 1
            width = max([minimum] + [len(lines[at][column]) + padding for at in range(start, stop)])
            for at in range(start, stop):
                widths[at].append(width)
            start = stop
    return widths


def ellipsis(text: str, limit: int) -> str:
    """At most `limit` characters, the last of a cut text being an ellipsis."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
