"""Merges defaults, daemon.json and flags into one `Config`. Reads the file, and looks whether dockerd's default certificates
exist. Reports all errors at once and records where each value came from.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from .argv import Parsed, parse
from .errors import ConfigError
from .file import Document, decode, fallback_for, find, read
from .flags import FLAGS
from .model import Config
from .policy import IGNORED
from .validate import Problem, validate

__all__ = ["DEFAULT", "Loaded", "load", "load_all", "merge", "without_password"]

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
_PASSWORD = re.compile(r"(://)[^/]*@")  # up to the last "@" of the authority: a password may contain "@"
_PROXIES = ("http-proxy", "https-proxy", "no-proxy")


class Loaded(NamedTuple):
    """A configuration with the file it came from ("" for none), the warnings, and the origins of each key that was set:
    "FILE:LINE", "--flag", "environment NAME". A key that is combined has several."""

    config: Config
    file: str = ""
    warnings: tuple[str, ...] = ()
    origins: Mapping[str, str] = {}

    def located(self, problem: Problem) -> str:
        """A problem with the places where its keys were set: file and line, flag, environment."""
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
    """dockerd's message about keys set both by flag and in the file, "" when there are none. Only `runtimes` may be both."""
    by_key: dict[str, list[str]] = {}
    for flag in FLAGS:
        if flag.name in parsed.raw and flag.key:
            by_key.setdefault(flag.key, []).append(flag.name)
    file, found = document.values, []
    for key, names in by_key.items():
        group, dot, member = key.partition(".")
        holder: Any = file.get(group, {}) if dot else file
        name = member or key
        if key == "host-gateway-ips" and "host-gateway-ip" in file:
            key, name, holder = "host-gateway-ip", "host-gateway-ip", file
        if key == "runtimes" or not isinstance(holder, Mapping) or name not in holder:
            continue
        typed = ",".join(parsed.raw[each] for each in names)
        line = f"{name}: (from flag: {typed}, from file: {_show(holder[name])})"
        place = f"--{names[0]} and line {document.lines[key]}" if key in document.lines else f"--{names[0]}"
        found.append(f"{without_password(line) if name in _PROXIES else line} [{place}]")
    if not found:
        return ""
    return f"the following directives are specified both as a flag and in the configuration file: {', '.join(found)}"


def _wrong_member(values: Mapping[str, Any], key: str) -> tuple[str, str]:
    """The wrong member of a map, which msgspec does not name, as a suffix of the key; and the value to show."""
    members = values.get(key)
    if isinstance(members, Mapping):
        for name, value in members.items():
            try:
                msgspec.convert({key: {name: value}}, Config)
            except msgspec.ValidationError:
                return f".{name}", _show(value)
    return "", _show(members)


def _explain(error: msgspec.ValidationError, values: Mapping[str, Any], key: str, lines: Mapping[str, int]) -> str:
    match = _PLACE.match(str(error))
    assert match is not None
    what = match["what"]
    for name, word in _WORDS.items():
        what = what.replace(name, word)
    what = re.sub(r"^Expected", "expected", what)
    member, shown = _wrong_member(values, key)
    line = lines.get(key + member) or lines.get(key)
    if key == "proxies":
        shown = without_password(shown)
    return f"{key}{member}: {shown}: {what}" + (f" (line {line})" if line else "")


def _mistyped(values: Mapping[str, Any], lines: Mapping[str, int]) -> dict[str, str]:
    """The keys whose values have the wrong type, each with a message."""
    found = {}
    for key, value in values.items():
        try:
            msgspec.convert({key: value}, Config)
        except msgspec.ValidationError as error:
            found[key] = f"wrong type: {_explain(error, values, key, lines)}"
    return found


def _warnings(values: Mapping[str, Any], config: Config) -> Iterator[str]:
    yield from (f"{key} is ignored: {reason}" for key, reason in IGNORED.items() if key in values)
    schemes = {host.partition("://")[0] for host in config.effective_hosts}
    if config.group != Config().group and "fd" in schemes and "unix" not in schemes:
        yield f"group is ignored: the socket is systemd's, it needs SocketGroup={config.group} (systemctl edit orlop.socket)"


def certificates(environ: Mapping[str, str]) -> str:
    """The directory where dockerd looks for certificates by default: the client's, of the user it runs as."""
    return environ.get("DOCKER_CERT_PATH") or environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")


def _environment(values: dict[str, Any], environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Apply the environment as dockerd does: proxies where nothing else sets them, certificates, the storage driver, the
    API's minimum version. Yields each key that it sets, and the variable."""
    proxies = dict(values.get("proxies") or {})
    for key in _PROXIES:
        name = key.upper().replace("-", "_")
        name = name if environ.get(name) else name.lower()
        if environ.get(name) and not proxies.get(key):
            proxies[key] = environ[name]
            yield "proxies", name
    if proxies:
        values["proxies"] = proxies
    if values.get("tls") or values.get("tlsverify") is not None:
        where = certificates(environ)
        for key, name in (("tlscacert", "ca.pem"), ("tlscert", "cert.pem"), ("tlskey", "key.pem")):
            if not values.get(key) and os.path.exists(path := os.path.join(where, name)):
                values[key] = path
                yield key, path
    if driver := environ.get("DOCKER_DRIVER"):
        values["storage-driver"] = driver
        yield "storage-driver", "DOCKER_DRIVER"
    version = environ.get("DOCKER_MIN_API_VERSION")
    if version and "min-api-version" not in values:
        values["min-api-version"] = version
        yield "min-api-version", "DOCKER_MIN_API_VERSION"


def _make_absolute(values: dict[str, Any], directory: str) -> None:
    """Make paths of files absolute as dockerd does. A name without a slash may be a program on PATH and stays."""
    for key in ("tlscacert", "tlscert", "tlskey", "pidfile"):
        if values.get(key):
            values[key] = os.path.join(directory, values[key])
    if "/" in values.get("init-path", ""):
        values["init-path"] = os.path.join(directory, values["init-path"])
    if values.get("cdi-spec-dirs"):
        values["cdi-spec-dirs"] = [each and os.path.join(directory, each) for each in values["cdi-spec-dirs"]]
    if values.get("runtimes"):
        values["runtimes"] = {name: _member(entry, "path", directory) for name, entry in values["runtimes"].items()}
    if values.get("listeners"):
        values["listeners"] = [_member(entry, "tlscacert", directory) for entry in values["listeners"]]


def _member(entry: dict[str, Any], key: str, directory: str) -> dict[str, Any]:
    path = entry.get(key, "")
    return {**entry, key: os.path.join(directory, path)} if "/" in path or (path and key != "path") else entry


def merge(file: Mapping[str, Any], parsed: Parsed) -> dict[str, Any]:
    values = {**file, **parsed.values}
    for key in ("runtimes", "proxies"):
        if isinstance(file.get(key), Mapping) and key in parsed.values:
            values[key] = {**file[key], **parsed.values[key]}
    return values


def _origins(document: Document, path: str, explicit: bool, parsed: Parsed) -> dict[str, list[str]]:
    """Where each key is set: by flags, or in the file, noting when that is dockerd's file."""
    remark = f" (no {fallback_for(path)})" if fallback_for(path) and not explicit else ""
    found = {key: [f"{path}:{document.lines[key]}{remark}" if key in document.lines else path] for key in document.values}
    for flag in FLAGS:
        if flag.key and flag.name in parsed.raw:
            found.setdefault(flag.key.partition(".")[0], []).append(f"--{flag.name}")
    return found


def _read(path: str) -> tuple[Document, list[str]]:
    """The file and its errors, in dockerd's words."""
    if not path:
        return Document({}, {}), []
    try:
        document = decode(read(path))
    except ConfigError as error:
        return Document({}, {}), list(error.problems)
    return document, list(document.problems)


def load_all(parsed: Parsed, environ: Mapping[str, str]) -> Loaded:
    """`load` for parsed arguments, with the file's name, the warnings and the origins. Unusable values are left out and
    checking goes on, so that the error names every problem."""
    path = find(os.path.join(parsed.directory, parsed.config_file) if parsed.config_file else "")
    document, wrong = _read(path)
    if conflicts := _conflicts(document, parsed):
        wrong.append(conflicts)
    mistyped = _mistyped(document.values, document.lines)
    wrong += mistyped.values()
    problems = [f"unable to configure the Docker daemon with file {path}: {problem}" for problem in wrong]

    origins = _origins(document, path, bool(parsed.config_file), parsed)
    values = merge({key: value for key, value in document.values.items() if key not in mistyped}, parsed)
    for key, name in _environment(values, environ):
        origins.setdefault(key, []).append(name if name.startswith("/") else f"environment {name}")
    _make_absolute(values, parsed.directory)
    told = {key: ", ".join(dict.fromkeys(places)) for key, places in origins.items()}
    config = msgspec.convert(values, Config)
    merged = [_located(problem, told) for problem in validate(config) if mistyped.keys().isdisjoint(problem.keys)]
    problems += [f"merged configuration validation from file and command line flags failed: {text}" for text in merged]
    if problems:
        raise ConfigError(*problems)
    return Loaded(config, path, (*document.notes, *_warnings(values, config)), told)


def load(argv: Sequence[str], environ: Mapping[str, str] | None = None) -> Config:
    """The configuration for these arguments (without the program's name). Raises `ConfigError`."""
    return load_all(parse(argv), os.environ if environ is None else environ).config
