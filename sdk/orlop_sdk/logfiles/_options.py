"""Log options: strings from daemon.json or a request into values. Units and words are dockerd's (go-units, strconv)."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import msgspec

from orlop_sdk.errors import InvalidParameter

from ._attributes import ATTRIBUTE_OPTIONS, check_attribute_options

__all__ = ["FileOptions", "buffer_size", "check_options", "file_options"]

_DECIMAL = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "p": 10**15}
_BINARY = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
_SIZE = re.compile(r"(\d+(?:\.\d*)?|\.\d+) ?(?:([kmgtp]?)(?:i?b)?|b)", re.IGNORECASE | re.ASCII)
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_BOOLEANS = dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True) | dict.fromkeys(
    ("0", "f", "F", "FALSE", "false", "False"), False
)

FILE_OPTIONS = frozenset({"max-size", "max-file", "compress"})
# Any driver accepts these (dockerd filters them out before it asks one). `cache-*` shape the copy that is kept for
# drivers that cannot be read.
COMMON_OPTIONS = frozenset(
    {"mode", "max-buffer-size", "cache-disabled", "cache-max-size", "cache-max-file", "cache-compress"}
)


class FileOptions(msgspec.Struct, frozen=True):
    """`max_size` in bytes, None = unlimited. `max_files` counts the current file."""

    max_size: int | None = None
    max_files: int = 1
    compress: bool = False


def _wrong(key: str, value: str, cause: str) -> InvalidParameter:
    return InvalidParameter(f"cannot use log option {key}={value}: {cause}")


def _size(key: str, value: str, units: Mapping[str, int]) -> int:
    found = _SIZE.fullmatch(value)
    if found is None:
        raise _wrong(key, value, f"invalid size: '{value}'")
    size = float(found[1]) * units[(found[2] or "").lower()]
    if size >= 1 << 63:
        raise _wrong(key, value, f"invalid size: '{value}'")
    return int(size)


def _integer(key: str, value: str) -> int:
    if not _INTEGER.fullmatch(value) or len(value) > 10:
        raise _wrong(key, value, f'strconv.Atoi: parsing "{value}": invalid syntax')
    return int(value)


def _boolean(key: str, value: str) -> bool:
    if value not in _BOOLEANS:
        raise _wrong(key, value, f'strconv.ParseBool: parsing "{value}": invalid syntax')
    return _BOOLEANS[value]


def file_options(options: Mapping[str, str], default: FileOptions) -> FileOptions:
    """`max-size` (decimal units: 10m is 10,000,000 bytes), `max-file`, `compress`; `default` for what is not given."""
    max_size, max_files, compress = default.max_size, default.max_files, default.compress
    if (value := options.get("max-size")) is not None:
        max_size = _size("max-size", value, _DECIMAL)
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
    """`max-buffer-size` of `mode=non-blocking`, in bytes: 1 MiB if it is not given."""
    return _size("max-buffer-size", options.get("max-buffer-size", "1m"), _BINARY)


def check_options(driver: str, options: Mapping[str, str], known: Collection[str] = ()) -> None:
    """Refuse options that no driver knows, and wrong values of those that all know. `known`: the driver's own names
    beside `FILE_OPTIONS | ATTRIBUTE_OPTIONS`, where it has those."""
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
        _size("cache-max-size", options["cache-max-size"], _DECIMAL)
    if "cache-max-file" in options:
        _integer("cache-max-file", options["cache-max-file"])
    if set(known) >= ATTRIBUTE_OPTIONS:
        check_attribute_options(options)


FILE_AND_ATTRIBUTE_OPTIONS = FILE_OPTIONS | ATTRIBUTE_OPTIONS
