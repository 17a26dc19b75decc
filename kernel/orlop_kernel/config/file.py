"""daemon.json: bytes in, known keys with their values out. Says file, line, key and reason of what is wrong with it."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from .errors import ConfigError
from .flags import FLAGS
from .model import Config
from .policy import HINTS

__all__ = ["DEFAULT_FILES", "KEYS", "decode", "find", "line_of", "read"]

DEFAULT_FILES = ("/etc/orlop/daemon.json", "/etc/docker/daemon.json")
KEYS = frozenset(Config.__struct_encode_fields__)

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_PLURALS = {flag.name: flag.key for flag in FLAGS if flag.key and "." not in flag.key and flag.key != flag.name}


def find(explicit: str) -> str:
    """The file to read: the one named by --config-file, else the first default that exists, else ""."""
    if explicit:
        return explicit
    return next((path for path in DEFAULT_FILES if os.path.exists(path)), "")


def read(path: str) -> str:
    """The file's text. dockerd accepts UTF-8 and UTF-16 with a byte order mark; so do we."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise ConfigError(f"unable to configure the Docker daemon with file {path}: {error.strerror}") from error
    try:
        for bom, encoding in _BOMS:
            if data.startswith(bom):
                return data[len(bom) :].decode(encoding)
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"unable to configure the Docker daemon with file {path}: invalid JSON: byte {error.start}: not UTF-8"
        ) from error


def line_of(text: str, key: str) -> int:
    """The line on which `key` is written, 0 when it is not there as such (escapes)."""
    match = re.search(r'"' + re.escape(key) + r'"\s*:', text)
    return text.count("\n", 0, match.start()) + 1 if match else 0


def _place(text: str) -> str:
    """Where the JSON breaks and why. The standard library knows lines and columns, msgspec only bytes."""
    import json

    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return f"line {error.lineno}, column {error.colno}: {error.msg}"
    return "not a JSON document"


def _hint(key: str) -> str:
    known = HINTS.get(key) or _PLURALS.get(key)
    if known in KEYS:
        return f' (did you mean "{known}"?)'
    if known:
        return f" ({known})"
    from difflib import get_close_matches

    near = get_close_matches(key, KEYS, 1)
    return f' (did you mean "{near[0]}"?)' if near else ""


def _check_known(keys: Iterable[str]) -> None:
    unknown = sorted(set(keys) - KEYS)
    if unknown:
        listed = ", ".join(f"{key}{_hint(key)}" for key in unknown)
        raise ConfigError(f"the following directives don't match any configuration option: {listed}")


def _is_zero(value: Any) -> bool:
    return value is None or (value in ("", 0) and not isinstance(value, bool))


def decode(text: str, path: str) -> dict[str, Any]:
    """The keys that the file sets. null, "" and 0 set nothing, as in dockerd, except that default-stop-timeout may be 0."""
    where = f"unable to configure the Docker daemon with file {path}: "
    if not text.strip():
        return {}
    try:
        found = msgspec.json.decode(text)
    except msgspec.DecodeError:
        raise ConfigError(f"{where}invalid JSON: {_place(text)}") from None
    if not isinstance(found, Mapping):
        raise ConfigError(f"{where}invalid JSON: an object is expected, not {type(found).__name__}")
    try:
        _check_known(found)
        if "host-gateway-ip" in found and "host-gateway-ips" in found:
            raise ConfigError("host-gateway-ip and host-gateway-ips are the same setting: use host-gateway-ips only")
    except ConfigError as error:
        raise ConfigError(f"{where}{error}") from None
    return {
        key: value
        for key, value in found.items()
        if not _is_zero(value) or (key == "default-stop-timeout" and value == 0 and value is not None)
    }
