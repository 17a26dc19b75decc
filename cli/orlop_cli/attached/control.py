"""Forwards signals to the container and the terminal's size to its TTY during an attachment."""

from __future__ import annotations

import os

from orlop_cli._errors import CliError
from orlop_cli.attached import terminal

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    import signal
    from types import TracebackType

    from orlop_cli.attached.signals import SignalThread
    from orlop_cli.daemon.client import Engine


def resize(engine: Engine, path: str, rows: int, columns: int) -> bool:
    """Set the size of a TTY; False if the daemon refuses (the process has not started yet, or has ended)."""
    try:
        engine.post(f"{path}/resize", {"h": rows, "w": columns})
    except CliError:
        return False
    return True


def resize_now(engine: Engine, path: str) -> bool:
    """Send the size of the user's terminal, if there is a terminal."""
    here = terminal.size()
    return here is None or resize(engine, path, *here)


class control:  # noqa: N801 - used as a function; contextlib takes 4 ms to import
    """During the block, signals are forwarded to `path`/kill, and the size is sent to `path`/resize after a SIGWINCH. If a
    signal that is not forwarded ends the process, the terminal is restored first."""

    def __init__(self, engine: Engine, path: str, forward: bool, tty: bool) -> None:
        self._thread: SignalThread | None = None
        if forward or tty:
            self._thread = _thread(engine.fork(), path, forward, tty)

    def __enter__(self) -> None:
        if self._thread is not None:
            self._thread.start()

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self._thread is not None:
            self._thread.stop()


def _thread(engine: Engine, path: str, forward: bool, tty: bool) -> SignalThread:
    import signal

    from orlop_cli.attached.signals import FORWARDED, SignalThread

    raw = terminal.Raw(0) if tty and os.isatty(0) else None

    def handle(number: signal.Signals) -> None:
        if tty and number == signal.SIGWINCH:
            resize_now(engine, path)
        elif forward:
            _kill(engine, path, number)
        else:
            if raw:
                raw.restore()
            signal_self(number)

    ending = {signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT} if raw else set()
    watched = set(FORWARDED) if forward else ending
    return SignalThread(watched | ({signal.SIGWINCH} if tty else set()), handle)


def _kill(engine: Engine, path: str, number: signal.Signals) -> None:
    try:
        engine.post(
            f"{path}/kill", {"signal": number.name.removeprefix("SIG") if "RT" not in number.name else str(int(number))}
        )
    except CliError:
        pass  # the process has not started yet, or has already ended


def signal_self(number: int) -> None:
    """Exit with 128 + N, as shells report a signal. May be called in any thread."""
    os._exit(128 + number)
