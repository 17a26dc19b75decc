"""Computes what a key does: the next state, and the effects that the loop carries out.

A key is given as its character, or as one of the names in `NAMES`.
"""

from __future__ import annotations

from typing import NamedTuple

from orlop_cli.fullscreen import rows
from orlop_cli.fullscreen.model import Question, State, Text, body, order, selected, settle, shown, text_body

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from orlop_cli.fullscreen.rows import Row

    Effects: TypeAlias = list["Call | Open | Close | Shell | Refresh | Redraw | Quit"]

__all__ = ["HELP", "Call", "Close", "Open", "Quit", "Redraw", "Refresh", "Shell", "hints", "press"]

NAMES = frozenset("up down left right pageup pagedown home end enter escape delete backspace tab backtab ctrl-l".split())
FILTER_LIMIT = 200


class Call(NamedTuple):
    """Change an object: `verb` is stop, start, restart, pause, unpause or remove."""

    verb: str
    page: str
    key: str
    name: str


class Open(NamedTuple):
    """Fill the text with this token: the log, the JSON or the explanation of an object."""

    what: str
    page: str
    key: str
    name: str
    token: int


class Close(NamedTuple):
    """Stop filling the text."""


class Shell(NamedTuple):
    """Run a shell in a container, on the whole terminal."""

    key: str
    name: str


class Refresh(NamedTuple):
    """Request the objects of the page now."""


class Redraw(NamedTuple):
    """Draw the whole screen again."""


class Quit(NamedTuple):
    """End the command."""


# Keys of the pages: (key, text in the help, short text in the last line, pages)
_EVERY = frozenset(rows.PAGES)
_OBJECTS = _EVERY - {"cache"}
ACTIONS = (
    ("l", "show the log, and follow it", "log", {"containers"}),
    ("e", "run a shell in the container", "shell", {"containers"}),
    ("i", "inspect: show all properties as JSON (also Enter)", "inspect", _EVERY),
    ("x", "explain: why it ended, or what uses it", "explain", _OBJECTS),
    ("s", "stop", "stop", {"containers"}),
    ("S", "start", "Start", {"containers"}),
    ("r", "restart", "restart", {"containers"}),
    ("p", "pause, or resume a paused container", "pause", {"containers"}),
    ("d", "remove, after a question (also Delete)", "delete", _OBJECTS),
)
HELP = (
    "Move",
    "  up, down, k, j          select a row",
    "  PgUp, PgDn, Home, End   move by a screen, or to the first or last row",
    "  1 2 3 4 5, Tab          containers, images, volumes, networks, build cache",
    "Choose rows",
    "  /                       filter: rows with this text; Esc removes the filter",
    "  o, O                    sort by the next column; reverse the order",
    "  a                       show or hide containers that do not run",
    "The selected row",
    *(f"  {key:<24}{words}" for key, words, _, _ in ACTIONS),
    "In a log or another text",
    "  up, down, PgUp, PgDn    scroll; End follows new lines of a log",
    "  q, Esc                  back to the rows",
    "Others",
    "  Ctrl-L                  draw the screen again",
    "  ?                       this help",
    "  q, Ctrl-C               end",
    "",
    "CPU % is relative to one core, MEM % to the container's limit. THROTTLED",
    "is the share of time slices in which the container waited for its CPU",
    "quota. The network columns show bytes per second.",
)


def hints(state: State) -> list[tuple[str, str]]:
    """The keys of the last line, as pairs of a key and a word."""
    if state.mode == "text":
        log = state.text is not None and state.text.log
        return [("q", "back"), ("up/down", "scroll"), *([("End", "follow")] if log else [])]
    if state.mode == "help":
        return [("q", "back"), ("up/down", "scroll")]
    of_page = [(key, word) for key, _, word, pages in ACTIONS if state.page in pages]
    return [("?", "help"), *of_page, ("/", "filter"), ("o", "sort"), ("q", "quit")]


def press(state: State, key: str) -> tuple[State, Effects]:
    """The next state and the effects of a key."""
    if key == "unknown":  # also the key that ncurses reports when the size of the terminal has changed
        return state, []
    if key == "ctrl-l":
        return state, [Redraw()]
    state = state._replace(notice="", failed=False)
    state, effects = {"filter": _filter, "ask": _ask, "text": _text, "help": _help, "list": _list}[state.mode](state, key)
    return settle(state), effects


def _filter(state: State, key: str) -> tuple[State, Effects]:
    if key == "enter":
        return state._replace(mode="list"), []
    if key == "escape":
        return state._replace(mode="list", filter=""), []
    if key == "backspace":
        return state._replace(filter=state.filter[:-1]), []
    if key in ("up", "down"):
        return _list(state, key)
    if len(key) == 1 and key.isprintable():
        return state._replace(filter=(state.filter + key)[:FILTER_LIMIT]), []
    return state, []


def _ask(state: State, key: str) -> tuple[State, Effects]:
    """Process the answer to a question. Only `y` means yes."""
    question = state.question
    state = state._replace(mode="list", question=None)
    return (state, [question.effect]) if question and key in ("y", "Y") else (state._replace(notice="nothing done"), [])


def _text(state: State, key: str) -> tuple[State, Effects]:
    if key in ("q", "escape", "left"):
        return state._replace(mode="list", text=None), [Close(), Refresh()]
    text, screen = state.text, text_body(state)
    if text is None:
        return state, []
    if key == "end":
        return state._replace(text=text._replace(follow=True)), []
    steps = {"up": -1, "k": -1, "down": 1, "j": 1, "pageup": -screen, "pagedown": screen, " ": screen, "home": -text.top}
    if key in steps:
        return state._replace(text=text._replace(top=text.top + steps[key], follow=False)), []
    return state, []


def _help(state: State, key: str) -> tuple[State, Effects]:
    screen = text_body(state)
    steps = {"up": -1, "k": -1, "down": 1, "j": 1, "pageup": -screen, "pagedown": screen, " ": screen}
    if key in steps:
        last = max(len(HELP) - screen, 0)
        return state._replace(help_top=min(max(state.help_top + steps[key], 0), last)), []
    return state._replace(mode="list", help_top=0), []


def _list(state: State, key: str) -> tuple[State, Effects]:
    if key in _MOVES:
        return _moved(state, _MOVES[key](state)), []
    if key in _SIMPLE:
        return _SIMPLE[key](state)
    if key in ("tab", "right", "backtab", "left"):
        pages = list(rows.PAGES)
        step = 1 if key in ("tab", "right") else -1
        return _turned(state, pages[(pages.index(state.page) + step) % len(pages)])
    if key.isdecimal() and key.isascii() and 1 <= int(key) <= len(rows.PAGES):
        return _turned(state, list(rows.PAGES)[int(key) - 1])
    row = selected(state)
    key = {"enter": "i", "delete": "d"}.get(key, key)
    if row is None or not any(key == one and state.page in pages for one, _, _, pages in ACTIONS):
        return state, []
    return _on_row(state, key, row)


_MOVES: dict[str, Callable[[State], int]] = {
    "up": lambda _: -1,
    "k": lambda _: -1,
    "down": lambda _: 1,
    "j": lambda _: 1,
    "pageup": lambda state: -body(state),
    "pagedown": body,
    " ": body,
    "home": lambda state: -len(shown(state)),
    "g": lambda state: -len(shown(state)),
    "end": lambda state: len(shown(state)),
    "G": lambda state: len(shown(state)),
}


def _moved(state: State, step: int) -> State:
    keys = [row.key for row in shown(state)]
    if not keys:
        return state
    at = keys.index(state.chosen[state.page]) if state.chosen.get(state.page) in keys else 0
    at = min(max(at + step, 0), len(keys) - 1)
    return state._replace(chosen={**state.chosen, state.page: keys[at]})


def _turned(state: State, page: str) -> tuple[State, Effects]:
    return state._replace(page=page, filter=""), [Refresh()]


def _next_order(state: State) -> tuple[State, Effects]:
    titles = [column.title for column, _ in rows.choose(rows.COLUMNS[state.page], state.width)]
    column, _ = order(state)
    following = titles[(titles.index(column) + 1) % len(titles)] if column in titles else titles[0]
    return state._replace(order={**state.order, state.page: (following, False)}), []


def _reverse(state: State) -> tuple[State, Effects]:
    column, reverse = order(state)
    return state._replace(order={**state.order, state.page: (column, not reverse)}), []


_SIMPLE: dict[str, Callable[[State], tuple[State, Effects]]] = {
    "q": lambda state: (state, [Quit()]),
    "?": lambda state: (state._replace(mode="help", help_top=0), []),
    "/": lambda state: (state._replace(mode="filter"), []),
    "escape": lambda state: (state._replace(filter=""), []),
    "a": lambda state: (state._replace(everything=not state.everything), []),
    "o": _next_order,
    "O": _reverse,
}


def _on_row(state: State, key: str, row: Row) -> tuple[State, Effects]:
    if key in "lix":
        what = {"l": "log", "i": "inspect", "x": "explain"}[key]
        token = state.token + 1
        text = Text(f"{what} {row.name}", token, follow=key == "l", log=key == "l")
        return state._replace(mode="text", text=text, token=token), [Open(what, state.page, row.key, row.name, token)]
    if key == "e":
        if not row.live:
            return state._replace(notice=f"{row.name} is not running: S starts it", failed=True), []
        return state, [Shell(row.key, row.name)]
    if key == "d":
        return state._replace(mode="ask", question=_removal(state.page, row)), []
    paused = row.cells.get("STATE") == "paused"
    verb = {"s": "stop", "S": "start", "r": "restart", "p": "unpause" if paused else "pause"}[key]
    return state._replace(notice=f"{verb} {row.name} ..."), [Call(verb, state.page, row.key, row.name)]


def _removal(page: str, row: Row) -> Question:
    kind = {"containers": "container", "images": "image", "volumes": "volume", "networks": "network"}[page]
    risk = {"volume": " and its data"}.get(kind, "")
    if row.live:
        kind, risk = "running container", ", which kills it"
    return Question(f"Remove {kind} {row.name}{risk}? (y/n)", Call("remove", page, row.key, row.name))
