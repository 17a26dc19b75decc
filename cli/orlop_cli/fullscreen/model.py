"""The state of the view, and the changes that messages from the daemon make.

A state is never changed: the functions return a new one.
"""

from __future__ import annotations

from typing import NamedTuple

from orlop_cli.fullscreen import rows
from orlop_cli.fullscreen.cells import wrap

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from orlop_cli.fullscreen.rows import Row
    from orlop_cli.fullscreen.samples import Sample

    Json = dict[str, Any]

__all__ = ["CHROME", "Question", "State", "Text", "add_lines", "body", "end_text", "listed", "lost", "note"]
__all__ += ["sampled", "selected", "settle", "shown", "text_lines", "to_sample", "visible"]

CHROME = 4  # lines of the screen without a row: the title, the pages, the column titles, the keys
LINES = 2000  # lines of a text that are kept
BEHIND = 8  # containers outside of the screen that are sampled in a round, if the order of the rows depends on figures


class Text(NamedTuple):
    """A text on the whole screen: a log, the JSON of an object, or an explanation. `token` identifies the request that fills
    it. With `follow`, the last lines stay visible."""

    title: str
    token: int
    lines: tuple[str, ...] = ()
    top: int = 0
    follow: bool = False
    ended: str = "loading"
    log: bool = False


class Question(NamedTuple):
    """A question, and the effect if the user answers yes."""

    text: str
    effect: Any


class State(NamedTuple):
    """Everything that the screen depends on."""

    address: str
    width: int = 80
    height: int = 24
    page: str = "containers"
    items: Mapping[str, Sequence[Json]] = {}  # by page, the objects of the daemon
    samples: Mapping[str, Sample] = {}
    chosen: Mapping[str, str] = {}
    offset: Mapping[str, int] = {}
    order: Mapping[str, tuple[str, bool]] = {}
    filter: str = ""
    everything: bool = True  # show also containers that do not run
    mode: str = "list"  # list, filter (the user types the filter), ask, text, help
    question: Question | None = None
    text: Text | None = None
    help_top: int = 0
    notice: str = ""
    failed: bool = False  # the notice is an error
    lost: str = ""  # why there is no connection to the daemon
    silent: int = 0  # seconds since the request that the daemon has not answered yet
    token: int = 0


def shown(state: State) -> list[Row]:
    """The rows of the page, filtered and sorted."""
    found = rows.build(state.page, state.items.get(state.page, ()), state.samples)
    if state.page == "containers" and not state.everything:
        found = [row for row in found if row.live]
    wanted = state.filter.lower()
    if wanted:
        found = [row for row in found if wanted in _words(row)]
    column, reverse = order(state)
    return rows.arrange(found, column, reverse)


def _words(row: Row) -> str:
    """The text that a filter looks at: all cells except the figures, which change all the time."""
    return "\n".join(cell for column, cell in row.cells.items() if column not in rows.FIGURES).lower()


def order(state: State) -> tuple[str, bool]:
    """The column by which the page is sorted, and whether the order is reversed."""
    return state.order.get(state.page, (rows.COLUMNS[state.page][0].title, False))


def body(state: State) -> int:
    """The number of lines for rows."""
    return max(state.height - CHROME, 1)


def visible(state: State) -> list[Row]:
    """The rows on the screen."""
    start = state.offset.get(state.page, 0)
    return shown(state)[start : start + body(state)]


def selected(state: State) -> Row | None:
    """The selected row."""
    key = state.chosen.get(state.page)
    return next((row for row in shown(state) if row.key == key), None)


def to_sample(state: State, rounds: int) -> list[str]:
    """The containers whose figures are needed: those on the screen. If the rows are sorted by a figure, also a few of the
    other containers. Each round takes the next few of them, so that the number of requests is limited."""
    if state.page != "containers" or state.mode == "text":
        return []
    found = [row.key for row in visible(state) if row.live]
    if order(state)[0] in rows.FIGURES:
        others = [row.key for row in sorted(shown(state)) if row.live and row.key not in found]
        start = rounds * BEHIND % max(len(others), 1)
        found += (others[start:] + others[:start])[:BEHIND]
    return found


def settle(state: State) -> State:
    """Correct a state, so that the selected row exists and is on the screen, and a text is not scrolled past its end."""
    if state.text is not None:
        last = max(len(text_lines(state)) - text_body(state), 0)
        top = last if state.text.follow else min(max(state.text.top, 0), last)
        state = state._replace(text=state.text._replace(top=top))
    found = shown(state)
    keys = [row.key for row in found]
    page, start = state.page, state.offset.get(state.page, 0)
    key = state.chosen.get(page, "")
    if key in keys:
        at = keys.index(key)
    else:
        at = min(max(start, 0), len(keys) - 1)
    start = min(max(start, at - body(state) + 1, 0), max(at, 0), max(len(keys) - body(state), 0))
    chosen = keys[at] if keys else ""
    return state._replace(chosen={**state.chosen, page: chosen}, offset={**state.offset, page: start})


def text_body(state: State) -> int:
    """The number of lines for a text, below its title and above the keys."""
    return max(state.height - 2, 1)


def text_lines(state: State) -> list[str]:
    """The lines of the text in the width of the screen."""
    lines = state.text.lines if state.text else ()
    return [part for line in lines for part in wrap(line, max(state.width, 1))]


def listed(state: State, page: str, items: Sequence[Json]) -> State:
    """The daemon has answered with the objects of a page. If the selected row does not exist any more, the row at its place
    is selected."""
    place = [row.key for row in shown(state)] if state.page == page else []
    items_now = {**state.items, page: tuple(items)}
    state = state._replace(items=items_now, lost="", silent=0)
    key = state.chosen.get(page, "")
    now = [row.key for row in shown(state)] if state.page == page else []
    if key in place and key not in now:
        following = [one for one in place[place.index(key) :] if one in now] or now[-1:]
        state = state._replace(chosen={**state.chosen, page: following[0] if following else ""})
    present = {item.get("Id") for item in items_now.get("containers", ())}
    samples = {ident: found for ident, found in state.samples.items() if ident in present}
    return settle(state._replace(samples=samples))


def sampled(state: State, samples: Mapping[str, Sample | None]) -> State:
    """Figures of containers have arrived; None for a container that does not run."""
    merged = {**state.samples, **samples}
    return settle(state._replace(samples={ident: found for ident, found in merged.items() if found is not None}))


def lost(state: State, reason: str) -> State:
    """The daemon does not answer. The rows stay on the screen."""
    return state._replace(lost=reason, samples={}, silent=0)


def note(state: State, text: str, failed: bool = False) -> State:
    """Show a message until the next key."""
    return state._replace(notice=text, failed=failed)


def add_lines(state: State, token: int, lines: Sequence[str]) -> State:
    """Lines for the text with this token have arrived. Lines for a text that was closed are dropped."""
    if state.text is None or state.text.token != token:
        return state
    kept = (*state.text.lines, *lines)[-LINES:]
    ended = "" if state.text.ended == "loading" else state.text.ended
    return settle(state._replace(text=state.text._replace(lines=kept, ended=ended)))


def end_text(state: State, token: int, reason: str) -> State:
    """The text with this token is complete. `reason` is shown below the text."""
    if state.text is None or state.text.token != token:
        return state
    return settle(state._replace(text=state.text._replace(ended=reason)))
