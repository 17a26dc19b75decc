"""The daemon's log: one line per event on standard error, as text or, with `--log-format json`, as JSON.

When standard error is systemd's journal, each line begins with its priority (sd-daemon(3)) and omits the time.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable

from orlop_kernel import descriptors

__all__ = ["Throttle", "set_level", "setup"]

_LEVELS = {
    "panic": logging.CRITICAL,
    "fatal": logging.CRITICAL,
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": logging.DEBUG,
}
_NAMES = {
    logging.CRITICAL: "fatal",
    logging.ERROR: "error",
    logging.WARNING: "warn",
    logging.INFO: "info",
    logging.DEBUG: "debug",
}


# The priorities of syslog(3), with which `journalctl -p err` filters the log
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))


def _time(record: logging.LogRecord) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{whole}.{int(record.msecs):03d}Z"


class Throttle(logging.Filter):
    """Logs at most one record of each kind in ten seconds, and drops further records of this kind. The next logged record
    shows how many were dropped. The caller names the kind (`extra={"throttle": "..."}`). All failures for lack of file
    descriptors are of one kind. They are logged without tracebacks, because their cause is the limit of open files and not
    the code."""

    PERIOD = 10.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._kinds: dict[str, tuple[float, int]] = {}
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        kind = getattr(record, "throttle", "")
        if record.exc_info and descriptors.is_exhaustion(record.exc_info[1]):
            kind = "too many open files"
            record.msg, record.args = f"{record.getMessage()}: {descriptors.advice()}", ()
            record.exc_info = None
        return not kind or self._passes(kind, record)

    def _passes(self, kind: str, record: logging.LogRecord) -> bool:
        now = self._clock()
        with self._lock:
            since, held = self._kinds.get(kind, (-math.inf, 0))
            if now - since < self.PERIOD:
                self._kinds[kind] = since, held + 1
                return False
            self._kinds[kind] = now, 0
        if held:
            record.msg, record.args = f"{record.getMessage()} ({held} similar messages were suppressed before it)", ()
        return True


class _Text(logging.Formatter):
    """`2026-01-02T03:04:05.678Z warn  message`; a traceback follows on separate lines."""

    def format(self, record: logging.LogRecord) -> str:
        # Messages may contain text from containers and clients. A newline in such text must not forge a second log line
        message = record.getMessage().replace("\n", "\\n")
        line = f"{_time(record)} {_NAMES.get(record.levelno, record.levelname):5} {message}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _Journal(logging.Formatter):
    """Formats a record with another formatter, and puts the record's priority in front of each line."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        text = self._inner.format(record)
        if isinstance(self._inner, _Text):
            text = text.removeprefix(f"{_time(record)} ")
        priority = next((number for level, number in _PRIORITIES if record.levelno >= level), 7)
        return "\n".join(f"<{priority}>{line}" for line in text.split("\n"))


class _Json(logging.Formatter):
    """Formats a record as JSON with dockerd's keys (level, msg, time) and the logger's name."""

    def format(self, record: logging.LogRecord) -> str:
        import msgspec

        fields = {
            "level": _NAMES.get(record.levelno, record.levelname),
            "msg": record.getMessage(),
            "time": _time(record),
            "logger": record.name,
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(fields).decode()


def set_level(level: str) -> None:
    """Set the level of Orlop's own loggers. The loggers of libraries always log only warnings and errors."""
    logging.getLogger("orlop").setLevel(_LEVELS[level])


def _is_journal(fd: int, stream: str) -> bool:
    """Whether stderr is still the journal's socket: JOURNAL_STREAM contains the device and inode of this socket."""
    try:
        info = os.fstat(fd)
    except OSError:
        return False
    return stream == f"{info.st_dev}:{info.st_ino}"


def setup(level: str, form: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    formatter = _Json() if form == "json" else _Text()
    journal = _is_journal(2, os.environ.get("JOURNAL_STREAM", ""))
    handler.setFormatter(_Journal(formatter) if journal else formatter)
    handler.addFilter(Throttle())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    set_level(level)
