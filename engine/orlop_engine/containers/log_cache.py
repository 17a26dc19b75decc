"""The copy of a container's log. A log driver such as syslog cannot read the log back. For such a driver, the monitor also
writes a copy, with another log driver, into the container's directory, and `docker logs` reads the copy. dockerd calls this
dual logging."""

from __future__ import annotations

from collections.abc import Mapping

from orlop_engine.config import defaults
from orlop_sdk.numbers import parse_bool

__all__ = ["driver_of_copy", "options_of_copy"]

_OPTIONS = {"cache-max-size": "max-size", "cache-max-file": "max-file", "cache-compress": "compress"}


def driver_of_copy(driver: str, options: Mapping[str, str]) -> str:
    """The log driver that writes the copy if `driver` cannot read the log. The result is "" if `driver` or an option
    excludes a copy."""
    if driver == defaults.NO_LOG_DRIVER or ("cache-disabled" in options and parse_bool(options["cache-disabled"])):
        return ""
    return defaults.LOG_CACHE_DRIVER


def options_of_copy(options: Mapping[str, str]) -> dict[str, str]:
    return {name: options[key] for key, name in _OPTIONS.items() if key in options}
