"""Shows the JSON progress of pull, push, load and import. On a terminal, each layer has one line, which is updated; in other
outputs, plain lines are written.

Only the records show whether the operation has succeeded, because the status 200 is sent before the operation begins.
"""

from __future__ import annotations

from orlop_cli._errors import CliError

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import IO, Any

    from rich.progress import Progress, TaskID

    Record = dict[str, Any]


_COMPLETE = frozenset(("Pull complete", "Already exists", "Download complete", "Pushed", "Layer already exists"))


def show(records: Iterable[Record], out: IO[str], aux: Callable[[Any], None] | None = None) -> None:
    """Print progress to `out` until the stream ends. Raises CliError for an error record."""
    if out.isatty():
        _live(records, out, aux)
        return
    for record in _checked(records, aux):
        text = plain(record)
        if text:
            out.write(text)
            out.flush()


def _checked(records: Iterable[Record], aux: Callable[[Any], None] | None) -> Iterable[Record]:
    for record in records:
        raise_error(record)
        if "aux" in record and aux is not None:
            aux(record["aux"])
        yield record


def raise_error(record: Record) -> None:
    """Raise CliError if this is the record of a failure."""
    problem = (record.get("errorDetail") or {}).get("message") or record.get("error")
    if problem:
        raise CliError(str(problem))


def plain(record: Record) -> str:
    """The line of a record for a log file; "" for progress of bytes."""
    if "stream" in record:
        return str(record["stream"])
    status = record.get("status")
    if status is None or (record.get("progressDetail") or {}).get("current"):
        return ""
    return f"{record['id']}: {status}\n" if record.get("id") else f"{status}\n"


def _live(records: Iterable[Record], out: IO[str], aux: Callable[[Any], None] | None) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}:", markup=False),
        TextColumn("{task.fields[status]:<18}", markup=False),
        BarColumn(bar_width=30),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    console = Console(file=out, highlight=False, markup=False, soft_wrap=True)
    last: list[str] = []  # the lines Digest and Status, which are printed below the layers
    with Progress(*columns, console=console, refresh_per_second=10) as progress:
        board = _Board(progress)
        for record in _checked(records, aux):
            if "stream" in record:
                console.print(record["stream"].rstrip("\n"))
            elif record.get("id") and "progressDetail" in record:
                board.update(record)
            elif record.get("id"):
                console.print(plain(record).rstrip("\n"))
            else:
                last.append(plain(record))
    out.write("".join(last))
    out.flush()


class _Board:
    """A progress display with one task for each layer."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}
        self._status: dict[str, str] = {}

    def update(self, record: Record) -> None:
        layer, status = record["id"], record.get("status", "")
        detail = record.get("progressDetail") or {}
        task = self._tasks.get(layer)
        if task is None:
            task = self._tasks[layer] = self._progress.add_task(layer, total=None, start=False, status=status)
        current, total = detail.get("current"), detail.get("total") or None
        if current is not None and detail.get("units", "") == "":
            if self._status.get(layer) != status:
                self._progress.reset(task, start=True, total=total, status=status)  # the speed is measured for each phase
            self._progress.update(task, completed=current, total=total, status=status)
        else:
            self._settle(task, status)
        self._status[layer] = status

    def _settle(self, task: TaskID, status: str) -> None:
        """Show a status without numbers, and a full bar."""
        fields: dict[str, Any] = {"status": status}
        if status in _COMPLETE or status.startswith("Mounted from "):
            known = self._progress.tasks[self._progress.task_ids.index(task)].total or 1
            fields.update(completed=known, total=known)
        self._progress.update(task, **fields)
