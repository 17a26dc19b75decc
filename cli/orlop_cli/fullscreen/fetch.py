"""Requests of the view, in threads. Results are messages in a queue, which the loop applies to the state.

One thread polls the objects of the current page, and the figures (CPU, memory, network) of the containers that the view
names. It sends short requests, one after another. No request stays open, so the daemon has no work between two rounds.
Actions and texts have threads of their own, because a stop may take ten seconds, and a log may be followed for hours.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from typing import NamedTuple

from orlop_cli._errors import ApiError, CliError
from orlop_cli.attached.streams import Demultiplexer
from orlop_cli.daemon.client import segment
from orlop_cli.fullscreen.cells import printable
from orlop_cli.fullscreen.samples import Counters, Sample, counters, sample
from orlop_cli.values import jsontext

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from orlop_cli.daemon.client import Engine
    from orlop_cli.daemon.http import Response
    from orlop_cli.fullscreen.keys import Call, Open

__all__ = ["Actions", "Crashed", "Done", "Failed", "Listed", "Lost", "Poller", "Reader", "Sampled", "TextEnded", "TextLines"]

INTERVAL = 2.0  # seconds between two rounds
SECOND = 0.5  # seconds until the next round, if a container has only one sample, because rates need two
TAIL = 500  # lines of a log at its first display
WAITING = 2000  # lines that the view has not taken yet; as many as the view keeps
LONGEST = 1024  # bytes of a line; a longer line is broken
_PATHS = {"containers": "/containers/json", "images": "/images/json", "volumes": "/volumes", "networks": "/networks"}
_OBJECTS = {"containers": "/containers/{}", "images": "/images/{}", "volumes": "/volumes/{}", "networks": "/networks/{}"}
_PAST = {"stop": "stopped", "start": "started", "restart": "restarted", "pause": "paused", "unpause": "resumed"}


class Listed(NamedTuple):
    page: str
    items: list[dict[str, Any]]


class Sampled(NamedTuple):
    samples: dict[str, Sample | None]


class Lost(NamedTuple):
    reason: str


class Done(NamedTuple):
    text: str


class Failed(NamedTuple):
    text: str


class TextLines(NamedTuple):
    """Lines are added to the last message while the view has not taken them with `Reader.take`. Then a fast log neither
    fills the memory nor keeps the view from reading keys."""

    token: int
    lines: deque[str]


class TextEnded(NamedTuple):
    token: int
    reason: str


class Crashed(NamedTuple):
    """An unexpected error has ended a thread. The command ends with this error."""

    error: BaseException


class _Thread:
    """A thread that sends messages. An unexpected error becomes a message, too."""

    def __init__(self, send: Callable[[Any], None]) -> None:
        self.send = send

    def spawn(self, target: Callable[..., None], *args: Any) -> None:
        def guarded() -> None:
            try:
                target(*args)
            except BaseException as error:
                self.send(Crashed(error))

        threading.Thread(target=guarded, daemon=True).start()


class Poller(_Thread):
    """Requests lists and figures. `want()` says which, and `kick()` starts a round at once."""

    def __init__(self, engine: Engine, send: Callable[[Any], None]) -> None:
        super().__init__(send)
        self.waiting_since: float | None = None
        self.rounds = 0
        self._engine = engine
        self._wanted: tuple[str, tuple[str, ...]] = ("containers", ())
        self._kicks: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._before: dict[str, Counters] = {}

    def start(self) -> None:
        self.spawn(self._run)

    def want(self, page: str, containers: Sequence[str]) -> None:
        """Name the page to list, and the containers to sample."""
        self._wanted = (page, tuple(containers))

    def kick(self) -> None:
        self._kicks.put(None)

    def _run(self) -> None:
        while True:
            self.waiting_since = time.monotonic()
            pause = INTERVAL
            try:
                if self._round():
                    pause = SECOND
            except (CliError, OSError, ValueError) as error:
                self._before.clear()
                self.send(Lost(_cause(error)))
            self.waiting_since = None
            self.rounds += 1
            self._pause(pause)

    def _pause(self, seconds: float) -> None:
        try:
            self._kicks.get(timeout=seconds)
            while True:
                self._kicks.get_nowait()  # several kicks start only one round
        except queue.Empty:
            pass

    def _round(self) -> bool:
        """Request everything once. Returns whether a container was sampled for the first time."""
        page = self._wanted[0]
        items = list_page(self._engine, "containers")
        self.send(Listed("containers", items))
        if page != "containers":
            self.send(Listed(page, list_page(self._engine, page)))
        running = {item["Id"] for item in items if item.get("State") in ("running", "paused")}
        self._before = {ident: old for ident, old in self._before.items() if ident in running}
        return self._sample([ident for ident in self._wanted[1] if ident in running])

    def _sample(self, wanted: Sequence[str]) -> bool:
        found: dict[str, Sample | None] = {}
        new = False
        for ident in wanted:
            try:
                answer = self._engine.get(f"/containers/{ident}/stats", {"stream": 0, "one-shot": 1})
            except ApiError:
                continue  # the container has been removed, or the role of the socket has no right to its figures
            now = counters(answer, time.monotonic())
            found[ident] = sample(self._before.get(ident), now) if now else None
            if now:
                new = new or ident not in self._before
                self._before[ident] = now
        if found:
            self.send(Sampled(found))
        return new


def _cause(error: Exception) -> str:
    return printable(error.message if isinstance(error, CliError) else str(error)).partition("\n")[0]


def list_page(engine: Engine, page: str) -> list[dict[str, Any]]:
    """The objects of a page."""
    if page == "cache":
        engine.prefer((1, 42))  # with an older version of the API, the daemon computes all kinds of disk usage
        return list(engine.get("/system/df", {"type": "build-cache"}).get("BuildCache") or [])
    found = engine.get(_PATHS[page], {"all": 1} if page == "containers" else None)
    return list((found.get("Volumes") if isinstance(found, dict) else found) or [])


class Actions(_Thread):
    """Changes objects, each in a thread."""

    def __init__(self, engine: Engine, send: Callable[[Any], None]) -> None:
        super().__init__(send)
        self._engine = engine

    def call(self, wanted: Call) -> None:
        self.spawn(self._call, self._engine.fork(), wanted)

    def _call(self, engine: Engine, wanted: Call) -> None:
        try:
            path = _OBJECTS[wanted.page].format(segment(wanted.key))
            if wanted.verb == "remove":
                engine.delete(path, {"force": 1} if wanted.page == "containers" else None)
            else:
                engine.post(f"{path}/{wanted.verb}")
        except (CliError, OSError) as error:
            self.send(Failed(f"cannot {wanted.verb} {wanted.name}: {_words(error)}"))
        else:
            self.send(Done(f"{_PAST.get(wanted.verb, 'removed')} {wanted.name}"))
        finally:
            engine.close()


def _words(error: Exception) -> str:
    return printable(error.text if isinstance(error, ApiError) else str(error)).partition("\n")[0]


class Reader(_Thread):
    """Requests the content of texts (`model.Text`). `close()` ends the request for the text that is open."""

    def __init__(self, engine: Engine, send: Callable[[Any], None]) -> None:
        super().__init__(send)
        self._engine = engine
        self._current: Response | None = None
        self._token = 0
        self._lock = threading.Lock()
        self._untaken: TextLines | None = None  # the last message, if the view has not taken its lines

    def take(self, message: TextLines) -> list[str]:
        """The lines of a message; called by the view."""
        with self._lock:
            if self._untaken is message:
                self._untaken = None
            return list(message.lines)

    def _add(self, token: int, lines: Iterable[str]) -> None:
        with self._lock:
            if self._untaken is not None and self._untaken.token == token:
                self._untaken.lines.extend(lines)
                return
            self._untaken = TextLines(token, deque(lines, WAITING))
            self.send(self._untaken)

    def open(self, wanted: Open, item: dict[str, Any] | None) -> None:
        """Request the content of a text. `item` is the object, as the list of its page contains it."""
        self.close()
        self._token = wanted.token
        self.spawn(self._fill, self._engine.fork(), wanted, item)

    def close(self) -> None:
        self._token = 0
        current, self._current = self._current, None
        if current is not None:
            _shut(current)

    def _fill(self, engine: Engine, wanted: Open, item: dict[str, Any] | None) -> None:
        try:
            if wanted.what == "log":
                self._log(engine, wanted)
                reason = "end of the log"
            else:
                text = explained(engine, wanted) if wanted.what == "explain" else inspected(engine, wanted, item)
                self._add(wanted.token, map(printable, text.splitlines()))
                reason = ""
        except (CliError, OSError, ValueError) as error:
            reason = _words(error)
        finally:
            engine.close()
        self.send(TextEnded(wanted.token, reason))

    def _log(self, engine: Engine, wanted: Open) -> None:
        path = f"/containers/{wanted.key}"
        framed = not engine.get(f"{path}/json")["Config"]["Tty"]
        answer = engine.detached("GET", f"{path}/logs", {"stdout": 1, "stderr": 1, "follow": 1, "tail": str(TAIL)})
        self._current = answer
        if self._token != wanted.token:
            _shut(answer)  # the user has closed the text before the answer came
        self._add(wanted.token, ())
        demultiplexer, rest = Demultiplexer(), b""
        for chunk in answer.chunks():
            data = chunk
            if framed:
                data = b"".join(bytes(piece) for _, pieces in demultiplexer.feed(chunk) for piece in pieces)
            lines, rest = _split(rest + data)
            if lines:
                self._add(wanted.token, map(_line, lines))
        if rest:
            self._add(wanted.token, [_line(rest)])


def _split(data: bytes) -> tuple[list[bytes], bytes]:
    """The complete lines, and the rest. Long lines are broken."""
    *complete, rest = data.split(b"\n")
    *more, rest = _pieces(rest)
    return [piece for line in complete for piece in _pieces(line)] + more, rest


def _pieces(line: bytes) -> list[bytes]:
    at, found = 0, []
    while len(line) - at > LONGEST:
        end = at + LONGEST
        while end > at + LONGEST - 3 and line[end] & 0xC0 == 0x80:
            end -= 1  # not within a character of UTF-8
        found.append(line[at:end])
        at = end
    return [*found, line[at:]]


def _line(data: bytes) -> str:
    return printable(data.rstrip(b"\r").decode("utf-8", "replace"))


def _shut(answer: Response) -> None:
    """Wake the thread that waits for more of an answer."""
    try:
        answer.hijack()[0].shutdown(2)  # SHUT_RDWR
    except OSError:
        pass  # the daemon has closed the connection


def explained(engine: Engine, wanted: Open) -> str:
    """The text of `orlop explain`."""
    from orlop_cli.commands.explain import explanation
    from orlop_cli.explain import gather

    kind = {"containers": "container", "images": "image", "volumes": "volume", "networks": "network"}[wanted.page]
    ((_, found),) = gather.find(engine, wanted.key, kind)
    return explanation(engine, kind, found).text()


def inspected(engine: Engine, wanted: Open, item: dict[str, Any] | None) -> str:
    """The properties of an object as JSON. The API has no request for one record of the build cache, so the record from the
    list is shown."""
    if wanted.page == "cache":
        return jsontext.indented(item or {})
    suffix = "/json" if wanted.page in ("containers", "images") else ""
    return jsontext.indented(engine.get(_OBJECTS[wanted.page].format(segment(wanted.key)) + suffix))
