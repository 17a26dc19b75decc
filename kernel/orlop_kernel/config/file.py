"""Reads daemon.json and returns the known keys with their values. Errors name file, line, key and reason."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from .errors import ConfigError
from .keys import Schema

__all__ = ["DEFAULT_FILES", "Document", "decode", "fallback_for", "find", "key_lines", "read"]

DEFAULT_FILES = ("/etc/orlop/daemon.json", "/etc/docker/daemon.json")
"""The second file is read if the first does not exist, so that a machine that used Docker keeps its settings."""

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_PIECE = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]]')
_COLON = re.compile(r"\s*:")


class Document(NamedTuple):
    """The content of a file. `schema` has the keys of the plugins that the file selects. `values` are the known keys that it
    sets. `lines` maps each key to its line; a member of an object is written as "proxies.http-proxy". `problems` are errors
    that make the file unusable, `notes` are warnings."""

    schema: Schema
    values: dict[str, Any]
    lines: dict[str, int]
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def find(explicit: str) -> str:
    """The file to read: the file that --config-file names, else the first existing default, else ""."""
    if explicit:
        return explicit
    return next((path for path in DEFAULT_FILES if os.path.exists(path)), "")


def fallback_for(path: str) -> str:
    """If `path` is a default file other than the first: the path of the first, which `find` did not find. Otherwise ""."""
    return DEFAULT_FILES[0] if path in DEFAULT_FILES[1:] else ""


def read(path: str) -> str:
    """The file's text. As in dockerd, it is UTF-8, or UTF-16 with a byte order mark."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise ConfigError(str(error.strerror)) from error
    try:
        for bom, encoding in _BOMS:
            if data.startswith(bom):
                return data[len(bom) :].decode(encoding)
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"invalid JSON: byte {error.start}: not UTF-8") from error


def key_lines(text: str) -> Iterator[tuple[str, int]]:
    """Yields each key of a JSON object and of the objects inside ("runtimes.crun"), with its line number."""
    depth, parent, line, seen = 0, "", 1, 0
    for match in _PIECE.finditer(text):
        piece = match[0]
        if piece in "{[":
            depth += 1
        elif piece in "}]":
            depth -= 1
        elif depth in (1, 2) and _COLON.match(text, match.end()):
            line += text.count("\n", seen, match.start())
            seen = match.start()
            name = str(msgspec.json.decode(piece))
            if depth == 1:
                parent = name
            yield (name if depth == 1 else f"{parent}.{name}"), line


def _place(text: str) -> str:
    """Where the JSON is malformed and why. The standard library reports line and column, msgspec only a byte offset."""
    import json

    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return f"line {error.lineno}, column {error.colno}: {error.msg}"
    except RecursionError:
        return "nested too deeply"
    return "not a JSON document"


def _hint(key: str, schema: Schema) -> str:
    known = schema.hints.get(key)
    if known in schema.owners:
        return f'did you mean "{known}"?'
    if known:
        return known
    if owner := schema.unselected(key):
        return f'a key of the plugin "{owner}", which is not in services, front-ends or guards'
    from difflib import get_close_matches

    near = get_close_matches(key, schema.owners, 1)
    return f'did you mean "{near[0]}"?' if near else ""


def _unknown(found: Mapping[str, Any], lines: Mapping[str, int], schema: Schema) -> str:
    """dockerd's message about unknown keys, with line and nearest known key. "" if all keys are known."""
    listed = []
    for key in sorted(found.keys() - schema.owners.keys()):
        remarks = [f"line {lines[key]}" if key in lines else "", _hint(key, schema)]
        remark = "; ".join(filter(None, remarks))
        listed.append(f"{key} ({remark})" if remark else key)
    return f"the following directives don't match any configuration option: {', '.join(listed)}" if listed else ""


def _is_zero(value: Any) -> bool:
    return value is None or (value in ("", 0) and not isinstance(value, bool))


def _sets(key: str, value: Any, zeros: Collection[str]) -> bool:
    """Whether the key is set. As in dockerd, null, "" and 0 mean unset; but a key in `zeros` can be set to 0."""
    return not _is_zero(value) or (key in zeros and value == 0 and value is not None)


def decode(text: str) -> Document:
    """Raises `ConfigError` if the text is not a JSON object; all other errors are in `Document.problems`."""
    if not text.strip():
        return Document(Schema.select({}), {}, {})
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        raise ConfigError(f"invalid JSON: {_place(text)}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"invalid JSON: an object is expected, not {type(found).__name__}")
    lines: dict[str, int] = {}
    notes = []
    for key, line in key_lines(text):
        if key in lines:
            notes.append(f"{key} is set on line {lines[key]} and again on line {line}: the last value is used")
        lines[key] = line
    schema = Schema.select(found)
    problems = [_unknown(found, lines, schema)]
    for name, key in schema.older.items():
        if name in found and key in found:
            problems.append(f"{name} and {key} are the same setting: use {key} only")
    zeros = schema.zeros
    values = {key: value for key, value in found.items() if key in schema.owners and _sets(key, value, zeros)}
    return Document(schema, values, lines, tuple(filter(None, problems)), tuple(notes))
