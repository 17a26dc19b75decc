"""Parsing of log options from daemon.json or a request. Units and error messages are dockerd's (go-units, strconv)."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping

import msgspec

from orlop_sdk.errors import InvalidParameter
from orlop_sdk.numbers import parse_bool
from orlop_sdk.sizes import parse_size, parse_size_decimal

from ._attributes import ATTRIBUTE_OPTIONS, check_attribute_options

__all__ = ["FileOptions", "buffer_size", "check_options", "file_options"]

_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)

FILE_OPTIONS = frozenset({"max-size", "max-file", "compress"})
# Every driver accepts these options (dockerd removes them before it calls a driver). The options `cache-*` configure the
# local copy of the log, which is written if a driver has no reader.
COMMON_OPTIONS = frozenset(
    {"mode", "max-buffer-size", "cache-disabled", "cache-max-size", "cache-max-file", "cache-compress"}
)


class FileOptions(msgspec.Struct, frozen=True):
    """`max_size` is in bytes, None for no limit. `max_files` includes the current file."""

    max_size: int | None = None
    max_files: int = 1
    compress: bool = False


def _wrong(key: str, value: str, cause: str) -> InvalidParameter:
    return InvalidParameter(f"cannot use log option {key}={value}: {cause}")


def _size(key: str, value: str, parse: Callable[[str], int] = parse_size_decimal) -> int:
    try:
        return parse(value)
    except ValueError as error:
        raise _wrong(key, value, str(error)) from None


def _integer(key: str, value: str) -> int:
    if not _INTEGER.fullmatch(value) or len(value) > 10:
        raise _wrong(key, value, f'strconv.Atoi: parsing "{value}": invalid syntax')
    return int(value)


def _boolean(key: str, value: str) -> bool:
    try:
        return parse_bool(value)
    except ValueError as error:
        raise _wrong(key, value, str(error)) from None


def file_options(options: Mapping[str, str], default: FileOptions) -> FileOptions:
    """Parse `max-size` (decimal units: 10m is 10,000,000 bytes), `max-file` and `compress`. Missing options are taken from
    `default`. Raises `InvalidParameter`."""
    max_size, max_files, compress = default.max_size, default.max_files, default.compress
    if (value := options.get("max-size")) is not None:
        max_size = _size("max-size", value)
        if max_size <= 0:
            raise _wrong("max-size", value, "max-size must be a positive number")
    if (value := options.get("max-file")) is not None:
        max_files = _integer("max-file", value)
        if max_files < 1:
            raise _wrong("max-file", value, "max-file cannot be less than 1")
    possible = max_files > 1 and max_size is not None
    if (value := options.get("compress")) is not None:
        compress = _boolean("compress", value)
        if compress and not possible:
            raise _wrong("compress", value, "compress cannot be true when max-file is less than 2 or max-size is not set")
    return FileOptions(max_size, max_files, compress and possible)


def buffer_size(options: Mapping[str, str]) -> int:
    """The option `max-buffer-size` in bytes, which applies to `mode=non-blocking`. The default is 1 MiB."""
    return _size("max-buffer-size", options.get("max-buffer-size", "1m"), parse_size)


def check_options(driver: str, options: Mapping[str, str], known: Collection[str] = ()) -> None:
    """Raise `InvalidParameter` for an unknown option, and for an invalid value of an option that all drivers accept. `known`
    are the names of all options of the driver, including `FILE_OPTIONS` and `ATTRIBUTE_OPTIONS` if the driver has these."""
    for key in sorted(options):
        if key not in known and key not in COMMON_OPTIONS:
            raise InvalidParameter(f"unknown log opt '{key}' for {driver} log driver")
    mode = options.get("mode", "")
    if mode not in ("", "blocking", "non-blocking"):
        raise InvalidParameter(f"logger: logging mode not supported: {mode}")
    if "max-buffer-size" in options:
        if mode != "non-blocking":
            raise InvalidParameter("logger: max-buffer-size option is only supported with 'mode=non-blocking'")
        buffer_size(options)
    for key in ("cache-disabled", "cache-compress"):
        if key in options:
            _boolean(key, options[key])
    if "cache-max-size" in options:
        _size("cache-max-size", options["cache-max-size"])
    if "cache-max-file" in options:
        _integer("cache-max-file", options["cache-max-file"])
    if set(known) >= ATTRIBUTE_OPTIONS:
        check_attribute_options(options)


FILE_AND_ATTRIBUTE_OPTIONS = FILE_OPTIONS | ATTRIBUTE_OPTIONS
