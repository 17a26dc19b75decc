"""Defaults, daemon.json and flags become one `Config`. Reads the file and nothing else of the machine."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from .argv import Parsed, parse
from .errors import ConfigError
from .file import decode, find, line_of, read
from .flags import FLAGS
from .model import Config
from .policy import IGNORED
from .validate import validate

__all__ = ["Loaded", "load", "load_all", "merge"]

_PLACE = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<path>.*)`)?$", re.DOTALL)
_WORDS = {
    "`str`": "a string",
    "`int`": "a whole number",
    "`bool`": "true or false",
    "`array`": "a list",
    "`object`": "an object",
    "`float`": "a number with a fraction",
    "`null`": "null",
}
_PASSWORD = re.compile(r"(://)[^/@]*@")
_SECRET = ("http-proxy", "https-proxy")


class Loaded(NamedTuple):
    """A configuration and what its reader should be told: the file it came from ("" = none) and warnings."""

    config: Config
    file: str = ""
    warnings: tuple[str, ...] = ()


def _show(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)):
        return "[" + " ".join(_show(item) for item in value) + "]"
    return msgspec.json.encode(value).decode()


def _conflicts(file: Mapping[str, Any], parsed: Parsed) -> str:
    """dockerd's sentence about keys that stand in both, "" when there are none. Only `runtimes` may."""
    by_key: dict[str, list[str]] = {}
    for flag in FLAGS:
        if flag.name in parsed.raw and flag.key:
            by_key.setdefault(flag.key, []).append(parsed.raw[flag.name])
    found = []
    for key, typed in by_key.items():
        group, dot, member = key.partition(".")
        holder: Any = file.get(group, {}) if dot else file
        name = member or key
        if key == "host-gateway-ips" and "host-gateway-ip" in file:
            name, holder = "host-gateway-ip", file
        if key == "runtimes" or not isinstance(holder, Mapping) or name not in holder:
            continue
        line = f"{name}: (from flag: {','.join(typed)}, from file: {_show(holder[name])})"
        found.append(_PASSWORD.sub(r"\1xxxxx:xxxxx@", line) if name in _SECRET else line)
    if not found:
        return ""
    return f"the following directives are specified both as a flag and in the configuration file: {', '.join(found)}"


def _culprit(values: Mapping[str, Any], key: str) -> str:
    """The member of a map that is wrong: msgspec does not name it."""
    members = values.get(key)
    if isinstance(members, Mapping):
        for name, value in members.items():
            try:
                msgspec.convert({key: {name: value}}, Config)
            except msgspec.ValidationError:
                return f".{name}: {_show(value)}"
    return f": {_show(members)}"


def _explain(error: msgspec.ValidationError, values: Mapping[str, Any], text: str) -> str:
    match = _PLACE.match(str(error))
    assert match is not None
    path = match["path"] or ""
    key = re.split(r"[.\[]", path, maxsplit=1)[0]
    what = match["what"]
    for name, word in _WORDS.items():
        what = what.replace(name, word)
    what = re.sub(r"^Expected", "expected", what)
    line = line_of(text, key) if text and key else 0
    return f"{key}{_culprit(values, key)}: {what}" + (f" (line {line})" if line else "")


def _typed(values: Mapping[str, Any], text: str) -> Config:
    try:
        return msgspec.convert(dict(values), Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"invalid JSON: {_explain(error, values, text)}") from None


def _warnings(values: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(f"{key} is ignored: {reason}" for key, reason in IGNORED.items() if key in values)


def _environment(values: dict[str, Any], environ: Mapping[str, str]) -> None:
    """What dockerd takes from the environment: proxies where nothing else names them, the storage driver, the API's
    minimum version."""
    proxies = dict(values.get("proxies") or {})
    for key in ("http-proxy", "https-proxy", "no-proxy"):
        name = key.upper().replace("-", "_")
        found = environ.get(name) or environ.get(name.lower(), "")
        if found and not proxies.get(key):
            proxies[key] = found
    if proxies:
        values["proxies"] = proxies
    if driver := environ.get("DOCKER_DRIVER"):
        values["storage-driver"] = driver
    if version := environ.get("DOCKER_MIN_API_VERSION"):  # validated, as dockerd does
        values["min-api-version"] = version


def merge(file: Mapping[str, Any], parsed: Parsed, environ: Mapping[str, str]) -> dict[str, Any]:
    values = {**file, **parsed.values}
    for key in ("runtimes", "proxies"):
        if isinstance(file.get(key), Mapping) and key in parsed.values:
            values[key] = {**file[key], **parsed.values[key]}
    _environment(values, environ)
    return values


def load_all(parsed: Parsed, environ: Mapping[str, str]) -> Loaded:
    """`load` for arguments already parsed, with the file's name and the warnings."""
    path = find(parsed.config_file)
    text = read(path) if path else ""
    file = decode(text, path) if path else {}
    try:
        if conflicts := _conflicts(file, parsed):
            raise ConfigError(conflicts)
        _typed(file, text)
    except ConfigError as error:
        raise ConfigError(f"unable to configure the Docker daemon with file {path}: {error}") from None
    values = merge(file, parsed, environ)
    try:
        config = _typed(values, "")
        validate(config)
    except ConfigError as error:
        raise ConfigError(f"merged configuration validation from file and command line flags failed: {error}") from None
    return Loaded(config, path, _warnings(values))


def load(argv: Sequence[str], environ: Mapping[str, str] | None = None) -> Config:
    """The configuration for these arguments (without the program's name). Raises `ConfigError`."""
    return load_all(parse(argv), os.environ if environ is None else environ).config
