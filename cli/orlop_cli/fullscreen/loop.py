"""The loop of the view: waits for keys and messages, draws with curses, and restores the terminal.

The terminal is restored at every end: `curses.endwin` is in a `finally`, and SIGTERM and SIGHUP become exceptions. ncurses
handles ^Z and the continuation after it.
"""

from __future__ import annotations

import curses
import locale
import os
import queue
import select
import signal
import subprocess
import sys
import time

from orlop_cli._errors import CliError, Exit
from orlop_cli.fullscreen import fetch, keys, model, view

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType
    from typing import Any

    from orlop_cli._session import Session
    from orlop_cli.fullscreen.view import Line

__all__ = ["check_terminal", "run"]

_KEYS = {
    curses.KEY_UP: "up",
    curses.KEY_DOWN: "down",
    curses.KEY_LEFT: "left",
    curses.KEY_RIGHT: "right",
    curses.KEY_PPAGE: "pageup",
    curses.KEY_NPAGE: "pagedown",
    curses.KEY_HOME: "home",
    curses.KEY_END: "end",
    curses.KEY_ENTER: "enter",
    curses.KEY_BACKSPACE: "backspace",
    curses.KEY_DC: "delete",
    curses.KEY_BTAB: "backtab",
}
_CHARACTERS = {
    "\n": "enter",
    "\r": "enter",
    "\t": "tab",
    "\x1b": "escape",
    "\x7f": "backspace",
    "\b": "backspace",
    "\x0c": "ctrl-l",
}
_ESCAPE = 25  # milliseconds after Esc in which the rest of a key's sequence must come
_SHELL = "command -v bash >/dev/null 2>&1 && exec bash || exec sh"


def check_terminal() -> None:
    """Raise CliError if the terminal cannot show the view."""
    name = os.environ.get("TERM", "")
    instead = "use `orlop ps` and `orlop stats` instead"
    try:
        curses.setupterm()
    except curses.error:
        raise CliError(f"cannot show a full-screen view: the terminal type {name!r} is unknown; {instead}") from None
    if not (curses.tigetstr("cup") and curses.tigetstr("clear")):
        raise CliError(f"cannot show a full-screen view: a terminal of type {name!r} cannot move the cursor; {instead}")


def run(session: Session, command: Sequence[str]) -> None:
    """Show the view until the user ends it. `command` are the words that start this client with the same global flags."""
    check_terminal()
    engine = session.engine
    engine.server_version()  # an error, or ssh's question for a password, appears before the screen changes
    locale.setlocale(locale.LC_ALL, "")
    Screen(session, command).run()


class Screen:
    """The terminal, the threads, and the current state."""

    def __init__(self, session: Session, command: Sequence[str]) -> None:
        self._command = command
        self._messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poller = fetch.Poller(session.engine.fork(), self._send)
        self._actions = fetch.Actions(session.engine, self._send)
        self._reader = fetch.Reader(session.engine, self._send)
        self._state = model.State(session.address.text)
        self._window: curses.window
        self._attributes: dict[str, int] = {}
        self._drawn: list[Line] | None = None
        self._ended = False

    def _send(self, message: Any) -> None:
        """Pass a message to the loop; called by threads."""
        self._messages.put(message)
        self._wake()

    def _wake(self, *_: object) -> None:
        try:
            os.write(self._wake_write, b"w")
        except BlockingIOError:
            pass  # the pipe is full, so the loop will wake

    def run(self) -> None:
        os.environ.setdefault("ESCDELAY", str(_ESCAPE))
        previous = {number: signal.signal(number, _die) for number in (signal.SIGTERM, signal.SIGHUP)}
        # With these handlers, the loop reads the size itself: the size may change while the process is stopped.
        previous |= {number: signal.signal(number, self._wake) for number in (signal.SIGWINCH, signal.SIGCONT)}
        self._window = curses.initscr()
        try:
            self._prepare()
            self._poller.start()
            self._loop()
        finally:
            self._leave()
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _leave(self) -> None:
        """Restore the terminal. Without a second screen, as on a vt100, the shell writes its prompt over the last line of
        the view, so that line is cleared first."""
        try:
            self._window.move(curses.LINES - 1, 0)
            self._window.clrtoeol()
            self._window.refresh()
        except curses.error:
            pass  # the screen has no lines
        curses.endwin()

    def _prepare(self) -> None:
        curses.noecho()
        curses.cbreak()
        self._window.keypad(True)
        self._window.nodelay(True)
        try:
            curses.curs_set(0)
        except curses.error:
            pass  # the terminal always shows its cursor
        self._attributes = _styles()

    def _loop(self) -> None:
        while not self._ended:
            self._resize()
            self._silence()
            self._state = model.settle(self._state)
            self._poller.want(self._state.page, model.to_sample(self._state, self._poller.rounds))
            self._draw()
            select.select([0, self._wake_read], [], [], 1.0)
            self._drain()
            while not self._ended and (key := self._key()) is not None:
                self._state, effects = keys.press(self._state, key)
                for effect in effects:
                    self._carry_out(effect)
            for _ in range(self._messages.qsize()):  # not the messages that arrive meanwhile: keys come first
                self._apply(self._messages.get())

    def _drain(self) -> None:
        try:
            os.read(self._wake_read, 4096)
        except BlockingIOError:
            pass  # a key has ended the wait

    def _resize(self) -> None:
        try:
            width, height = os.get_terminal_size(1)
        except OSError:
            raise Exit(1) from None  # the terminal does not exist any more
        width, height = width or 80, height or 24
        if (width, height) != (self._state.width, self._state.height) or self._drawn is None:
            curses.resizeterm(height, width)
            self._window.clear()
            self._drawn = None
            self._state = self._state._replace(width=width, height=height)

    def _silence(self) -> None:
        since = self._poller.waiting_since
        self._state = self._state._replace(silent=int(time.monotonic() - since) if since else 0)

    def _key(self) -> str | None:
        """The next key that has been typed; None if there is none."""
        try:
            typed = self._window.get_wch()
        except curses.error:
            if select.select([0], [], [], 0)[0] and not os.isatty(0):
                raise Exit(1) from None
            return None
        if isinstance(typed, int):
            return _KEYS.get(typed, "unknown")
        return _CHARACTERS.get(typed, typed)

    def _carry_out(self, effect: Any) -> None:
        if isinstance(effect, keys.Quit):
            self._ended = True
        elif isinstance(effect, keys.Redraw):
            self._drawn = None
            self._window.clear()
        elif isinstance(effect, keys.Refresh):
            self._poller.want(self._state.page, ())
            self._poller.kick()
        elif isinstance(effect, keys.Call):
            self._actions.call(effect)
        elif isinstance(effect, keys.Open):
            items = self._state.items.get(effect.page, ())
            self._reader.open(effect, next((item for item in items if item.get("ID") == effect.key), None))
        elif isinstance(effect, keys.Close):
            self._reader.close()
        elif isinstance(effect, keys.Shell):
            self._shell(effect)

    def _apply(self, message: Any) -> None:
        state = self._state
        if isinstance(message, fetch.Listed):
            self._state = model.listed(state, message.page, message.items)
            if not state.items:
                self._poller.kick()  # now the containers to sample are known
        elif isinstance(message, fetch.Sampled):
            self._state = model.sampled(state, message.samples)
        elif isinstance(message, fetch.Lost):
            self._state = model.lost(state, message.reason)
        elif isinstance(message, fetch.TextLines):
            self._state = model.add_lines(state, message.token, self._reader.take(message))
        elif isinstance(message, fetch.TextEnded):
            self._state = model.end_text(state, message.token, message.reason)
        elif isinstance(message, fetch.Crashed):
            raise message.error
        else:
            self._state = model.note(state, message.text, isinstance(message, fetch.Failed))
            self._poller.kick()

    def _shell(self, wanted: keys.Shell) -> None:
        """Run a shell in the container, with the terminal as it was before the view."""
        curses.def_prog_mode()
        self._leave()
        print(f"Shell in {wanted.name}. The view continues after `exit`.", flush=True)
        words = [*self._command, "exec", "-it", wanted.key, "sh", "-c", _SHELL]
        # The signals of ^C and ^\ go to all processes of the terminal. The handlers keep this process alive, and exec resets
        # them for the child.
        previous = {number: signal.signal(number, _nothing) for number in (signal.SIGINT, signal.SIGQUIT)}
        try:
            code = subprocess.run(words, check=False).returncode
            if code in (125, 126, 127):
                print("Press Enter to continue.", flush=True)
                sys.stdin.readline()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        curses.reset_prog_mode()
        self._drawn = None
        self._state = model.note(self._state, f"the shell in {wanted.name} has ended with exit code {code}", code != 0)
        self._poller.kick()

    def _draw(self) -> None:
        """Draw the lines that have changed."""
        lines = view.render(self._state)
        for number, line in enumerate(lines):
            if self._drawn is None or number >= len(self._drawn) or self._drawn[number] != line:
                self._draw_line(number, line)
        self._drawn = lines
        self._window.refresh()

    def _draw_line(self, number: int, line: Line) -> None:
        self._window.move(number, 0)
        self._window.clrtoeol()
        for text, style in line:
            try:
                self._window.addstr(_encodable(text), self._attributes[style])
            except curses.error:
                pass  # after the last cell of the screen, the cursor has no place to go


def _encodable(text: str) -> str:
    """Replace the characters that the terminal's character set does not have."""
    encoding = locale.getpreferredencoding(False)
    return text if text.isascii() else text.encode(encoding, "replace").decode(encoding)


def _styles() -> dict[str, int]:
    """The attributes of view.STYLES. Without colour, bold and reverse text show the differences."""
    styles = {
        "": curses.A_NORMAL,
        "title": curses.A_BOLD,
        "page": curses.A_REVERSE,
        "head": curses.A_UNDERLINE,
        "selected": curses.A_REVERSE,
        "key": curses.A_BOLD,
        "dim": curses.A_NORMAL,
        "good": curses.A_NORMAL,
        "warn": curses.A_BOLD,
        "bad": curses.A_BOLD,
    }
    if not os.environ.get("NO_COLOR") and _starts_colours():
        for number, (style, colour) in enumerate(_COLOURS.items(), 1):
            curses.init_pair(number, colour, -1)
            styles[style] |= curses.color_pair(number)
        styles["dim"] |= curses.A_DIM
    return styles


def _starts_colours() -> bool:
    """Switch on the colours of curses, which then sets the colours of every character. Returns whether the terminal has
    colours."""
    try:
        curses.start_color()
        curses.use_default_colors()
    except curses.error:
        return False
    return curses.has_colors()


_COLOURS = {"good": curses.COLOR_GREEN, "warn": curses.COLOR_YELLOW, "bad": curses.COLOR_RED, "key": curses.COLOR_CYAN}


def _die(number: int, _frame: FrameType | None) -> None:
    raise Exit(128 + number)


def _nothing(*_: object) -> None:
    return None
