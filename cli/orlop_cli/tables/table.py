"""Table layout of Go's text/tabwriter with Docker's settings: minimum width 10, padding 3, spaces."""

from __future__ import annotations

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


MINIMUM, PADDING = 10, 3


def layout(lines: Sequence[Sequence[str]], minimum: int = MINIMUM, padding: int = PADDING) -> str:
    """The text of a table. The last cell of a line is never padded. As in tabwriter, a column is a block of consecutive
    lines in which the cell of the column is followed by another cell. So a short line ends the column."""
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
    """Split lines at newlines within cells, as in tabwriter."""
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
    """For each line, the widths of all its cells except the last one."""
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
    """Shorten a text to at most `limit` characters. The last character of a shortened text is an ellipsis."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
