"""Renders a state as lines of styled text, for a screen of a given size.

The frame has only ASCII characters, so a terminal without UTF-8 shows it, too.
"""

from __future__ import annotations

from typing import NamedTuple

from orlop_cli.fullscreen import keys, model, rows
from orlop_cli.fullscreen.cells import cut, fit, width

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from orlop_cli.fullscreen.model import State
    from orlop_cli.fullscreen.rows import Row

__all__ = ["STYLES", "Span", "plain", "render"]

STYLES = ("", "title", "page", "head", "selected", "key", "dim", "good", "warn", "bad")
SILENCE = 5  # seconds without an answer after which the screen says so
_SHORT = {"containers": "Cont", "images": "Img", "volumes": "Vol", "networks": "Net", "cache": "Cache"}


class Span(NamedTuple):
    """A piece of a line, in one of STYLES."""

    text: str
    style: str = ""


Line = list[Span]


def render(state: State) -> list[Line]:
    """The lines of the screen: as many as the screen has, each as wide as the screen."""
    if state.mode == "text" and state.text is not None:
        lines = _text(state)
    elif state.mode == "help":
        shown = keys.HELP[state.help_top : state.help_top + model.text_body(state)]
        lines = [[Span("Keys of orlop top", "title")], *([Span(line)] for line in shown)]
    else:
        lines = [_title(state), _pages(state), *_table(state)]
    room = max(state.height - 1, 0)
    lines = [*lines[:room], *([] for _ in range(room - len(lines)))]
    return [_fill(line, state.width) for line in [*lines, _bottom(state)][: state.height]]


def plain(lines: Iterable[Line]) -> str:
    """The text of the lines without styles and without spaces at their ends."""
    return "\n".join("".join(span.text for span in line).rstrip() for line in lines)


def _fill(line: Line, cells: int) -> Line:
    """The line with exactly `cells`. The last span's style continues to the end of selected lines and titles."""
    found: Line = []
    for span in line:
        text = cut(span.text, cells)
        cells -= width(text)
        if text:
            found.append(Span(text, span.style))
    last = found[-1].style if found else ""
    return [*found, Span(" " * cells, last if last in ("title", "head", "selected") else "")] if cells > 0 else found


def _title(state: State) -> Line:
    """The daemon's address, and the number of containers; or what is wrong with the connection."""
    if state.lost:
        return [Span(f"connection lost, trying again: {state.lost}", "bad")]
    line = [Span(f"orlop top  {state.address}", "title")]
    containers = state.items.get("containers")
    if containers is not None:
        running = sum(one.get("State") == "running" for one in containers)
        line.append(Span(f"  {running} of {len(containers)} running", "title"))
    if state.silent >= SILENCE:
        line.insert(0, Span(f"no answer for {state.silent} s  ", "bad"))
    return line


def _pages(state: State) -> Line:
    """The names of the pages, and how the rows are chosen."""
    full = sum(len(title) + 4 for title in rows.PAGES.values()) + 24 <= state.width
    line: Line = []
    for number, (page, title) in enumerate(rows.PAGES.items(), 1):
        text = f" {number} {title} " if full else f"{number}{_SHORT[page]} "
        line.append(Span(text, "page" if page == state.page else "dim"))
    column, reverse = model.order(state)
    if state.filter or state.mode == "filter":
        line.append(Span(f" /{state.filter}", "warn"))
    elif not state.everything and state.page == "containers":
        line.append(Span(" running", "warn"))
    line.append(Span(f"  by {column}{' reversed' if reverse else ''}", "dim"))
    return line


def _table(state: State) -> list[Line]:
    columns = rows.choose(rows.COLUMNS[state.page], state.width)
    sorted_by = model.order(state)[0]
    head: Line = []
    for column, cells in columns:
        head += [
            Span(fit(column.title, cells, column.right), "key" if column.title == sorted_by else "head"),
            Span(" ", "head"),
        ]
    found = model.visible(state)
    if not found:
        return [head, [Span(_nothing(state), "dim")]]
    key = state.chosen.get(state.page)
    return [head, *(_row(row, columns, row.key == key, bool(state.lost)) for row in found)]


def _nothing(state: State) -> str:
    if state.page not in state.items:
        return "" if state.lost else "loading"
    if state.filter:
        return f"no row contains {state.filter!r}"
    if state.page == "containers" and not state.everything and state.items[state.page]:
        return "no container is running (a: show all)"
    return f"no {rows.PAGES[state.page].lower()}"


def _row(row: Row, columns: Sequence[tuple[rows.Column, int]], selected: bool, old: bool) -> Line:
    line: Line = []
    for column, cells in columns:
        style = "selected" if selected else "dim" if old else row.styles.get(column.title, "")
        line += [
            Span(fit(row.cells.get(column.title, ""), cells, column.right), style),
            Span(" ", "selected" if selected else ""),
        ]
    return line


def _text(state: State) -> list[Line]:
    assert state.text is not None
    lines = model.text_lines(state)
    shown = [[Span(line)] for line in lines[state.text.top : state.text.top + model.text_body(state)]]
    first = state.text.top + 1 if lines else 0
    title = f"{state.text.title}  lines {first}-{state.text.top + len(shown)} of {len(lines)}"
    if state.text.ended:
        title += f"  ({state.text.ended})"
    return [[Span(title, "title")], *shown]


def _bottom(state: State) -> Line:
    """The last line: a question, the filter that is typed, a message, or the keys."""
    if state.mode == "ask" and state.question is not None:
        return [Span(state.question.text, "warn")]
    if state.mode == "filter":
        visible = state.filter[-max(state.width - 20, 8) :]
        return [Span("filter: "), Span(visible, "key"), Span("_  Enter keeps, Esc clears", "dim")]
    if state.notice:
        return [Span(state.notice, "bad" if state.failed else "warn")]
    line: Line = []
    left = state.width
    for key, word in keys.hints(state):
        text = f" {word} "
        if (left := left - len(key) - len(text)) < 0:
            break
        line += [Span(key, "key"), Span(text, "dim")]
    return line
