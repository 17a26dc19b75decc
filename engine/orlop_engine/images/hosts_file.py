"""Parses `hosts.toml`, containerd's configuration file for the hosts of a registry (containerd: docs/hosts.md). This module
does no I/O.

Unlike in containerd, an unknown key or a wrong value is an error, because ignoring a misspelt `skip_verify` or
`capabilities` changes which host is trusted. This module is imported on demand, because it imports tomllib.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import msgspec

from orlop_sdk import DriverError

from .endpoints import ALL, Capability, HostSettings

__all__ = ["SETTINGS", "HostsFile", "parse"]

_PLACE = re.compile(r" \(at line (\d+), column \d+\)$")
_FIELD = re.compile(r" - at `\$\.(\w+)|unknown field `([^`]*)`")
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h)")
_SECONDS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


class _Settings(msgspec.Struct, forbid_unknown_fields=True):
    """The keys of a `host` table. The same keys can also be at the top of the file; there they apply to the host
    `server`."""

    capabilities: list[Capability] = []
    ca: str | list[str] = []
    client: str | list[str | list[str]] = []
    skip_verify: bool = False
    header: dict[str, str | list[str]] = {}
    override_path: bool = False
    dial_timeout: str = ""
    proxy: str = ""


SETTINGS = _Settings.__struct_fields__


@dataclass(frozen=True, slots=True)
class HostsFile:
    """The parsed file. The hosts are tried in the order of `hosts`; `server` is tried last."""

    hosts: tuple[HostSettings, ...]
    server: HostSettings


class _Wrong(Exception):
    """A value in the file is invalid; the message gives the reason. `keys` are the TOML keys that lead to the value, such as
    ("host", URL, "proxy")."""

    def __init__(self, text: str, *keys: str) -> None:
        super().__init__(text)
        self.keys = keys


def _has(document: object, keys: tuple[str, ...]) -> bool:
    for key in keys:
        if not isinstance(document, dict) or key not in document:
            return False
        document = document[key]
    return True


def _line_of(text: str, keys: tuple[str, ...]) -> int:
    """The number of the line that sets the last of these nested keys; 1 if the line is not found. The function parses the
    beginning of the file up to the line with the key. Because the key's value may have several lines, it adds one more line
    after each failure, until the parser succeeds."""
    lines = text.splitlines(keepends=True)
    for at, line in enumerate(lines):
        if not keys or keys[-1] not in line:
            continue
        for end in range(at + 1, len(lines) + 1):
            try:
                document = tomllib.loads("".join(lines[:end]))
            except tomllib.TOMLDecodeError:
                continue  # the value continues in the next line
            if _has(document, keys):
                return at + 1
            break
    return 1


def _settings(table: dict[str, Any], where: tuple[str, ...]) -> _Settings:
    try:
        return msgspec.convert(table, _Settings)
    except msgspec.ValidationError as error:
        field = _FIELD.search(str(error))
        key = next(filter(None, field.groups())) if field else ""
        if field and field[2]:
            known = ", ".join(SETTINGS)
            raise _Wrong(
                f'unknown key "{key}" (known keys are {known}; server and host only at the top level)', *where, key
            ) from None
        text = str(error).partition(" - at ")[0]
        raise _Wrong(f"{key}: {text[:1].lower()}{text[1:]}".replace("`", ""), *where, *filter(None, (key,))) from None


def _url(text: str, override_path: bool, where: tuple[str, ...]) -> str:
    """The URL of a host. As in containerd, a host without a scheme is reached over TLS."""
    whole = text if "://" in text else f"https://{text}"
    try:
        parts = urlsplit(whole)
        valid = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
    except ValueError:
        valid = False
    if not valid or parts.username is not None or parts.query or parts.fragment or not whole.isprintable() or " " in whole:
        raise _Wrong(f'"{text}" is not an http:// or https:// URL without user, query and fragment', *where)
    path = parts.path.rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path if override_path else path.removesuffix('/v2')}"


def _pairs(client: str | list[str | list[str]], directory: str, where: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for item in [client] if isinstance(client, str) else client:
        pair = [item, ""] if isinstance(item, str) else item
        if len(pair) != 2 or not pair[0]:
            raise _Wrong("client: a path, or pairs of a certificate and its key are needed", *where, "client")
        certificate, key = (os.path.join(directory, path) if path else "" for path in pair)
        yield certificate, key or certificate


def _headers(header: dict[str, str | list[str]], where: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for name, values in header.items():
        for value in [values] if isinstance(values, str) else values:
            if not _HEADER_NAME.fullmatch(name) or not (value.isascii() and value.isprintable()):
                raise _Wrong(f'header: "{name}" is not an HTTP header with printable ASCII values', *where, "header", name)
            yield name, value


def _timeout(text: str, where: tuple[str, ...]) -> float | None:
    match = _DURATION.fullmatch(text)
    if text and match is None:
        raise _Wrong(f'dial_timeout: "{text}" is not a duration, as in "10s"', *where, "dial_timeout")
    return float(match[1]) * _SECONDS[match[2]] if match else None


def _proxy(text: str, where: tuple[str, ...]) -> str:
    if text and re.fullmatch(r"https?://[^/?#\s]+/?", text) is None:
        raise _Wrong(f'proxy: "{text}" is not the URL of an HTTP proxy, as in "http://proxy:3128"', *where, "proxy")
    return text


def _host(url: str, table: dict[str, Any], directory: str, where: tuple[str, ...]) -> HostSettings:
    found = _settings(table, where)
    return HostSettings(
        _url(url, found.override_path, where or ("server",)) if url else "",
        found.override_path and bool(url),
        frozenset(found.capabilities) or ALL,
        found.skip_verify,
        tuple(os.path.join(directory, path) for path in ([found.ca] if isinstance(found.ca, str) else found.ca)),
        tuple(_pairs(found.client, directory, where)),
        tuple(_headers(found.header, where)),
        _timeout(found.dial_timeout, where),
        _proxy(found.proxy, where),
    )


def _parse(document: dict[str, Any], directory: str) -> HostsFile:
    tables, server = document.pop("host", {}), document.pop("server", "")
    if not isinstance(server, str):
        raise _Wrong("server: a URL is needed", "server")
    if not isinstance(tables, dict):
        raise _Wrong('host: tables are needed, as in [host."https://mirror.example.com"]', "host")
    hosts = []
    for url, table in tables.items():
        if not isinstance(table, dict):
            raise _Wrong(f'host: "{url}" is not a table, as in [host."https://mirror.example.com"]', "host", url)
        hosts.append(_host(url, table, directory, ("host", url)))
    return HostsFile(tuple(hosts), _host(server, document, directory, ()))


def parse(text: str, path: str) -> HostsFile:
    """Parse the content of the file at `path`. Raises `DriverError` with the file, the line and the reason."""
    try:
        return _parse(tomllib.loads(text), os.path.dirname(path))
    except tomllib.TOMLDecodeError as error:
        place = _PLACE.search(str(error))
        line = int(place[1]) if place else len(text.splitlines())
        what = str(error)[: place.start()] if place else str(error)
        raise DriverError(f"{path}:{line}: {what}") from None
    except RecursionError:
        raise DriverError(f"{path}:1: too deeply nested") from None
    except _Wrong as error:
        raise DriverError(f"{path}:{_line_of(text, error.keys)}: {error}") from None
