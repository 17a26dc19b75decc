"""The daemon's own log: one line an event to standard error, for people or, with `--log-format json`, for machines."""

from __future__ import annotations

import logging
import sys
import time

__all__ = ["set_level", "setup"]

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


def _time(record: logging.LogRecord) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{whole}.{int(record.msecs):03d}Z"


class _Text(logging.Formatter):
    """`2026-01-02T03:04:05.678Z warn  message`; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        # A message with a newline in it would look like two: what containers and clients say may end up in one
        message = record.getMessage().replace("\n", "\\n")
        line = f"{_time(record)} {_NAMES.get(record.levelno, record.levelname):5} {message}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _Json(logging.Formatter):
    """dockerd's keys: level, msg, time; and who says it."""

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
    """Ours follows the configuration; what libraries say below a warning is theirs to know."""
    logging.getLogger("orlop").setLevel(_LEVELS[level])
    logging.getLogger("orlop_kernel").setLevel(_LEVELS[level])


def setup(level: str, form: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    set_level(level)
