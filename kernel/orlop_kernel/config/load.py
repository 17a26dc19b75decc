"""Merges defaults, daemon.json and flags into one `Config`. Reads the file, and checks whether dockerd's default
certificates exist. Reports all errors together, and records the origin of each value.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from .argv import Parsed, config_file, parse_flags
from .errors import ConfigError, Problem
from .file import Document, decode, fallback_for, find, read
from .flags import Flag, help_text
from .keys import Schema
from .model import Config
from .validate import validate

__all__ = ["DEFAULT", "Loaded", "help_of", "load", "load_all", "merge", "parse", "without_password"]

DEFAULT = "default"
"""The origin of a value that is not set anywhere."""

_PLACE = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<path>.*)`)?$", re.DOTALL)
_WORDS = {
    "`str`": "a string",
    "`int`": "a whole number",
    "`bool`": "true or false",
    "`bool | null`": "true or false",
    "`array`": "a list",
    "`object`": "an object",
    "`float`": "a number with a fraction",
    "`null`": "null",
}
_PASSWORD = re.compile(r"(://)[^/]*@")  # up to the last "@" before the path, because a password may contain "@"


class Loaded(NamedTuple):
    """A configuration, the path of its file ("" for none), the warnings, and the origins of each key that was set:
    "FILE:LINE", "--flag", "environment NAME". A key whose values are combined has several origins."""

    config: Config
    file: str = ""
    warnings: tuple[str, ...] = ()
    origins: Mapping[str, str] = {}

    def located(self, problem: Problem) -> str:
        """The text of a problem, with the origins of its keys: file and line, flag, environment."""
        return _located(problem, self.origins)

    def origin(self, key: str) -> str:
        return self.origins.get(key, DEFAULT)


def _located(problem: Problem, origins: Mapping[str, str]) -> str:
    places = ", ".join(f"{key}: {origins[key]}" for key in problem.keys if key in origins)
    return f"{problem.text} [{places}]" if places else problem.text


def without_password(url: str) -> str:
    """Mask user and password of proxies as dockerd does, in every URL of a text."""
    return _PASSWORD.sub(r"\1xxxxx:xxxxx@", url)


def _show(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)):
        return "[" + " ".join(_show(item) for item in value) + "]"
    return msgspec.json.encode(value).decode()


def _conflicts(document: Document, parsed: Parsed) -> str:
    """dockerd's message about keys that are set by a flag and in the file; "" if there are no such keys."""
    by_key: dict[str, list[str]] = {}
    for each, flag in sorted(parsed.flags.items()):
        if flag.key:
            by_key.setdefault(flag.key, []).append(each)
    file, found = document.values, []
    older, both = {key: name for name, key in document.schema.older.items()}, document.schema.both
    for key, names in by_key.items():
        group, dot, member = key.partition(".")
        holder: Any = file.get(group, {}) if dot else file
        name = member or key
        if older.get(key) in file:
            key = name = older[key]
            holder = file
        if key in both or not isinstance(holder, Mapping) or name not in holder:
            continue
        typed = ",".join(parsed.raw[each] for each in names)
        line = f"{name}: (from flag: {typed}, from file: {_show(holder[name])})"
        place = f"--{names[0]} and line {document.lines[key]}" if key in document.lines else f"--{names[0]}"
        found.append(f"{without_password(line)} [{place}]")
    if not found:
        return ""
    return f"the following directives are specified both as a flag and in the configuration file: {', '.join(found)}"


def _wrong_member(values: Mapping[str, Any], key: str, schema: Schema) -> tuple[str, str]:
    """Find the wrong member of a map, because msgspec does not name it. Returns ".MEMBER", and the value to show."""
    members = values.get(key)
    if isinstance(members, Mapping):
        for name, value in members.items():
            try:
                schema.check_type(key, {name: value})
            except msgspec.ValidationError:
                return f".{name}", _show(value)
    return "", _show(members)


def _explain(error: msgspec.ValidationError, document: Document, key: str) -> str:
    match = _PLACE.match(str(error))
    assert match is not None
    what = match["what"]
    for name, word in _WORDS.items():
        what = what.replace(name, word)
    what = re.sub(r"^Expected", "expected", what)
    member, shown = _wrong_member(document.values, key, document.schema)
    line = document.lines.get(key + member) or document.lines.get(key)
    return f"{key}{member}: {without_password(shown)}: {what}" + (f" (line {line})" if line else "")


def _mistyped(document: Document) -> dict[str, str]:
    """The keys whose values have the wrong type, each with a message."""
    found = {}
    for key, value in document.values.items():
        try:
            document.schema.check_type(key, value)
        except msgspec.ValidationError as error:
            found[key] = f"wrong type: {_explain(error, document, key)}"
    return found


def _warnings(values: Mapping[str, Any], config: Config) -> Iterator[str]:
    for part in config.parts.values():
        yield from (f"{key} is ignored: {reason}" for key, reason in part.IGNORED.items() if key in values)
    schemes = {host.partition("://")[0] for host in config.effective_hosts}
    if config.group != Config().group and "fd" in schemes and "unix" not in schemes:
        yield f"group is ignored: systemd makes the socket; set SocketGroup={config.group} (systemctl edit orlop.socket)"


def certificates(environ: Mapping[str, str]) -> str:
    """The directory where dockerd looks for certificates by default. It is the configuration directory of the docker
    client."""
    return environ.get("DOCKER_CERT_PATH") or environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")


def _certificates(values: dict[str, Any], environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """For each of `tlscacert`, `tlscert` and `tlskey` that is not set: if dockerd's default file exists, set the key to the
    path of this file, and yield the key and the path."""
    if values.get("tls") or values.get("tlsverify") is not None:
        where = certificates(environ)
        for key, name in (("tlscacert", "ca.pem"), ("tlscert", "cert.pem"), ("tlskey", "key.pem")):
            if not values.get(key) and os.path.exists(path := os.path.join(where, name)):
                values[key] = path
                yield key, path


def _make_absolute(values: dict[str, Any], directory: str) -> None:
    """Make paths of files absolute, as dockerd does. A name without a slash stays, because it may be a program on PATH."""
    for key in ("tlscacert", "tlscert", "tlskey", "pidfile"):
        if values.get(key):
            values[key] = os.path.join(directory, values[key])
    if values.get("listeners"):
        values["listeners"] = [_member(entry, "tlscacert", directory) for entry in values["listeners"]]


def _member(entry: dict[str, Any], key: str, directory: str) -> dict[str, Any]:
    path = entry.get(key, "")
    return {**entry, key: os.path.join(directory, path)} if "/" in path or (path and key != "path") else entry


def merge(file: Mapping[str, Any], parsed: Parsed) -> dict[str, Any]:
    values = {**file, **parsed.values}
    for key, value in parsed.values.items():
        if isinstance(file.get(key), Mapping) and isinstance(value, Mapping):
            values[key] = {**file[key], **value}
    return values


def _origins(document: Document, path: str, explicit: bool, parsed: Parsed) -> dict[str, list[str]]:
    """The origins of each key: flags, or a line of the file, with a remark if the file is dockerd's."""
    remark = f" (no {fallback_for(path)})" if fallback_for(path) and not explicit else ""
    found = {key: [f"{path}:{document.lines[key]}{remark}" if key in document.lines else path] for key in document.values}
    for name, flag in sorted(parsed.flags.items()):
        if flag.key:
            found.setdefault(_key(flag), []).append(f"--{name}")
    return found


def _key(flag: Flag) -> str:
    return flag.key.partition(".")[0]


def _read(path: str) -> tuple[Document, list[str]]:
    """Read the file, and return its content and its errors. The errors are in dockerd's words."""
    if not path:
        return Document(Schema.select({}), {}, {}), []
    try:
        document = decode(read(path))
    except ConfigError as error:
        return Document(Schema.select({}), {}, {}), list(error.problems)
    return document, list(document.problems)


def _read_first(argv: Sequence[str], directory: str = "") -> tuple[str, Document, list[str]]:
    """The path of the file that the arguments seem to name, its content and its errors."""
    path = config_file(argv)
    try:
        return path, *_read(find(os.path.join(directory, path) if path else ""))
    except ConfigError as error:  # a plugin that is selected by default declares wrong keys
        return path, Document(Schema({}), {}, {}), list(error.problems)


def parse(argv: Sequence[str], directory: str = "") -> Parsed:
    """Parse the arguments (without the program's name). `directory` is the base of relative paths. Valid flags are those of
    the kernel and of the plugins that the configuration file selects. Raises `ConfigError`."""
    seeming, document, problems = _read_first(argv, directory)

    def hint(name: str) -> str:
        owner = document.schema.unselected_flag(name)
        return f'a flag of the plugin "{owner}", which is not in services, front-ends or guards' if owner else ""

    parsed = parse_flags(argv, document.schema.flags, hint)
    if parsed.config_file != seeming:
        raise ConfigError("cannot tell which file --config-file names: write --config-file=FILE before all other flags")
    return parsed._replace(directory=directory, read=(document, problems))


def help_of(argv: Sequence[str]) -> str:
    """The text of `--help` for these arguments."""
    return help_text(_read_first(argv)[1].schema.flags.values())


def load_all(parsed: Parsed, environ: Mapping[str, str]) -> Loaded:
    """Like `load`, but takes parsed arguments, and also returns the file's name, the warnings and the origins. An unusable
    value does not end the check: all other values are checked too, so that the error names every problem."""
    path = find(os.path.join(parsed.directory, parsed.config_file) if parsed.config_file else "")
    document, wrong = parsed.read or _read(path)
    if conflicts := _conflicts(document, parsed):
        wrong.append(conflicts)
    mistyped = _mistyped(document)
    wrong += mistyped.values()
    problems = [f"unable to configure the Docker daemon with file {path}: {problem}" for problem in wrong]

    known = document.schema.owners
    origins = _origins(document, path, bool(parsed.config_file), parsed)
    values = merge({key: value for key, value in document.values.items() if key not in mistyped}, parsed)
    if foreign := [f"--{name}" for name, flag in sorted(parsed.flags.items()) if _key(flag) not in {"", *known}]:
        problems.append(f"{', '.join(foreign)}: no plugin in services, front-ends or guards declares this flag")
        values = {key: value for key, value in values.items() if key in known}
    for key, name in _certificates(values, environ):
        origins.setdefault(key, []).append(name)
    _make_absolute(values, parsed.directory)
    for part in document.schema.parts:
        for key, name in part.complete(values, environ, parsed.directory):
            origins.setdefault(key, []).append(name)
    told = {key: ", ".join(dict.fromkeys(places)) for key, places in origins.items()}
    config = document.schema.convert(values)
    merged = [_located(problem, told) for problem in validate(config) if mistyped.keys().isdisjoint(problem.keys)]
    problems += [f"merged configuration validation from file and command line flags failed: {text}" for text in merged]
    if problems:
        raise ConfigError(*problems)
    return Loaded(config, path, (*document.notes, *_warnings(values, config)), told)


def load(argv: Sequence[str], environ: Mapping[str, str] | None = None) -> Config:
    """The configuration for these arguments (without the program's name). Raises `ConfigError`."""
    return load_all(parse(argv), os.environ if environ is None else environ).config
