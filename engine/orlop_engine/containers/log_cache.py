"""The copy of a container's log. A log driver such as syslog cannot read the log back. For such a driver, the monitor also
writes a copy, with another log driver, into the container's directory, and `docker logs` reads the copy. dockerd calls this
dual logging."""

from __future__ import annotations

from collections.abc import Mapping

from orlop_engine.config import defaults

__all__ = ["driver_of_copy", "options_of_copy"]

_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_OPTIONS = {"cache-max-size": "max-size", "cache-max-file": "max-file", "cache-compress": "compress"}


def driver_of_copy(driver: str, options: Mapping[str, str]) -> str:
    """The log driver that writes the copy; "" if `driver` can read the log itself, so that no copy is needed."""
    is_wanted = driver != defaults.NO_LOG_DRIVER and options.get("cache-disabled", "") not in _TRUE
    return defaults.LOG_CACHE_DRIVER if is_wanted else ""


def options_of_copy(options: Mapping[str, str]) -> dict[str, str]:
    return {name: options[key] for key, name in _OPTIONS.items() if key in options}
