"""`orlop stats`: one stream and one thread per container; the main thread draws."""

from __future__ import annotations

import sys
import threading

from orlop_cli import _config
from orlop_cli._command import command, complain, flag, option
from orlop_cli._errors import CliError, Exit
from orlop_cli.daemon.client import Engine, records, segment
from orlop_cli.tables.format import render_rows
from orlop_cli.tables.stats import COLUMNS, HEADERS, Figures, Line, figures

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop_cli._session import Session


FIRST_SAMPLE = 2.0  # seconds; containers without a sample then show dashes
INTERVAL = 0.5
CLEAR = "\033[H\033[J"
HOME_AND_ERASE = "\033[2J\033[H"


class Collector:
    """The samples of one container. Its thread writes the fields and the drawing thread reads them. A field is always
    replaced as a whole."""

    def __init__(self, engine: Engine, asked: str, stream: bool) -> None:
        self.asked = asked
        self.ident, self.name = asked, ""
        self.seen: Figures | None = None
        self.gone = False
        self.problem: CliError | None = None
        self.first = threading.Event()
        self._engine, self._stream = engine, stream
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            path = f"/containers/{segment(self.asked)}/stats"
            for sample in records(self._engine.detached("GET", path, {"stream": int(self._stream)})):
                self.ident = sample.get("id") or self.ident
                self.name = (sample.get("name") or "").removeprefix("/")
                # A container that is not running sends an empty sample with the zero time.
                self.seen = None if str(sample.get("read", "")).startswith("0001-") else figures(sample)
                self.first.set()
        except CliError as error:
            self.problem = error
        except (OSError, ValueError):
            self.seen = None
        self.gone = self._stream
        self.first.set()

    def line(self, trunc: bool) -> Line:
        return Line(self.asked, self.ident, self.name, self.seen, trunc)


class Board:
    """The displayed containers. With `follow`, containers that start later are added."""

    def __init__(self, engine: Engine, names: Sequence[str], everything: bool, stream: bool) -> None:
        self._engine, self._everything, self._stream = engine, everything, stream
        self.follow = not names
        self.collectors: dict[str, Collector] = {}
        for name in names or self._listed():
            self.add(name)

    def _listed(self) -> list[str]:
        found = self._engine.get("/containers/json", {"all": 1 if self._everything else None})
        return [item["Id"][:12] for item in found]

    def add(self, name: str) -> None:
        if name not in self.collectors:
            self.collectors[name] = Collector(self._engine.fork(), name, self._stream)

    def refresh(self) -> None:
        """Add new containers, and remove containers that have exited."""
        if not self.follow:
            return
        present = self._listed()
        for name in set(self.collectors) - set(present):
            del self.collectors[name]
        for name in present:
            self.add(name)

    def wait(self, timeout: float | None) -> None:
        for collector in list(self.collectors.values()):
            collector.first.wait(timeout)

    def problems(self) -> list[CliError]:
        return [collector.problem for collector in self.collectors.values() if collector.problem and not self.follow]

    def text(self, form: str | None, trunc: bool) -> str:
        shown = [collector for collector in self.collectors.values() if not (collector.gone and self.follow)]
        return render_rows([collector.line(trunc) for collector in shown], COLUMNS, HEADERS, form)


@command(
    "stats",
    "Display a live stream of container(s) resource usage statistics",
    usage="[CONTAINER...]",
    most=None,
    examples=["orlop stats", "orlop stats --no-stream --format 'table {{.Name}}\\t{{.CPUPerc}}\\t{{.MemUsage}}'"],
)
@flag("-a", "--all", "everything", help="Show all containers (default shows just running)")
@option("--format", "form", metavar="string", help="'table', 'table TEMPLATE', 'json', or a Go template")
@flag("--no-stream", help="Disable streaming stats and only pull the first result")
@flag("--no-trunc", help="Do not truncate output")
def stats(
    session: Session, args: tuple[str, ...], everything: bool, form: str | None, no_stream: bool, no_trunc: bool
) -> None:
    form = form or _config.text("statsFormat")
    board = Board(session.engine, args, everything, stream=not no_stream)
    board.wait(None if no_stream else FIRST_SAMPLE)
    problems = board.problems()
    for problem in problems:
        complain(problem)
    if problems:
        raise Exit(1)
    if no_stream:
        sys.stdout.write(board.text(form, not no_trunc))
        return
    _draw(board, form, not no_trunc)


def _draw(board: Board, form: str | None, trunc: bool) -> None:
    """Redraw in place until interrupted, or until all named containers have exited."""
    pause = threading.Event()
    template = bool(form) and not str(form).startswith("table")
    rounds = 0
    while True:
        clear = "" if template and not sys.stdout.isatty() else CLEAR if rounds else HOME_AND_ERASE
        sys.stdout.write(clear + board.text(form, trunc))
        sys.stdout.flush()
        if not board.follow and all(collector.gone for collector in board.collectors.values()):
            return
        pause.wait(INTERVAL)
        rounds += 1
        if rounds % 4 == 0:
            board.refresh()
