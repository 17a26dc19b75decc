"""Applies Dockerfile instructions (the parameter `changes` of import and commit) to a configuration, like moby's
builder/dockerfile. This module does no I/O."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from orlop_engine.types.images import ImageConfig, ImageHealthcheck
from orlop_sdk import InvalidParameter

from .shell_words import Expander

__all__ = ["apply"]

_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?", re.IGNORECASE)
_UNIT = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|h)")
_WORD = re.compile(r"""(?:\\.|"(?:\\.|[^"\\])*(?:"|\\?$)|'[^']*(?:'|$)|[^\s\\"'])+""", re.DOTALL)
_MOST_PORTS = 1 << 17  # limit for the ports in all ranges together; a port in two ranges counts twice


def _exec_form(text: str) -> list[str] | None:
    """The JSON list of strings at the start of the text, or None."""
    if not text.startswith("["):
        return None
    try:
        value, _ = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None
    if not all(isinstance(item, str) for item in value):
        raise InvalidParameter("when using JSON array syntax, arrays must be comprised of strings only")
    return list(value)


def _pairs(name: str, text: str) -> Iterator[tuple[str, str]]:
    """The pairs in `K=V K2="a b"`, or the pair in the old form `K the rest`. Variables in the pairs are not expanded."""
    words = _WORD.findall(text)
    if words and "=" not in words[0]:
        key, *value = text.split(None, 1)
        if not value:
            raise InvalidParameter(f"{name} must have two arguments")
        yield key, value[0]
        return
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise InvalidParameter(f"Syntax error - can't find = in {json.dumps(word)}. Must be of the form: name=value")
        if not key:
            raise InvalidParameter(f"{name} names can not be blank")
        yield key, value


def _workdir(current: str, text: str) -> str:
    if not text:
        raise InvalidParameter("cannot normalize nothing")
    path = text if text.startswith("/") else f"{current or '/'}/{text}"
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)


def _stop_signal(text: str) -> str:
    name = text.upper()
    number = int(text) if text.isdigit() and len(text) < 4 else 0
    known = {one.name for one in signal.Signals}
    realtime = re.fullmatch(r"(SIG)?RTM(IN(\+\d{1,2})?|AX(-\d{1,2})?)", name)
    if not (0 < number <= 64 or name in known or f"SIG{name}" in known or realtime):
        raise InvalidParameter(f"invalid signal: {text}")
    return text


def _on_build(text: str) -> str:
    word = text.split(None, 1)[0].upper()
    if word == "ONBUILD":
        raise InvalidParameter("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if word in ("FROM", "MAINTAINER"):
        raise InvalidParameter(f"{word} isn't allowed as an ONBUILD trigger")
    return text


def _duration(name: str, text: str) -> int:
    pieces = _DURATION.findall(text)
    if not pieces or "".join(number + unit for number, unit in pieces) != text:
        raise InvalidParameter(f'time: invalid duration "{text}"')
    exact = sum(float(number) * _UNIT[unit] for number, unit in pieces)
    if exact >= 1 << 63:
        raise InvalidParameter(f'time: invalid duration "{text}"')
    total = int(exact)
    if total and total < 10**6:
        raise InvalidParameter(f'Interval "{name}" cannot be less than 1ms')
    return total


def _healthcheck(text: str) -> ImageHealthcheck:
    options: dict[str, str] = {}
    while match := re.match(r"--([a-z-]+)=(\S+)\s*", text):
        options[match[1]], text = match[2], text[match.end() :]
    kind, _, rest = text.partition(" ")
    if kind.upper() == "NONE":
        return ImageHealthcheck(["NONE"])
    if kind.upper() != "CMD":
        raise InvalidParameter(f'Unknown type "{kind.upper()}" in HEALTHCHECK (try CMD)')
    if not rest.strip():
        raise InvalidParameter("Missing command after HEALTHCHECK CMD")
    command = _exec_form(rest.strip())
    known = {
        "interval": "interval",
        "timeout": "timeout",
        "start-period": "start_period",
        "start-interval": "start_interval",
    }
    times = {}
    for name, value in options.items():
        if name in known:
            times[known[name]] = _duration(name, value)
        elif name != "retries":
            raise InvalidParameter(f"unknown flag: {name}")
        elif not (value.isascii() and value.isdigit() and len(value) < 10):
            raise InvalidParameter(f"strconv.ParseInt: parsing {json.dumps(value)}: invalid syntax")
    test = ["CMD-SHELL", rest.strip()] if command is None else ["CMD", *command]
    return ImageHealthcheck(test, retries=int(options.get("retries", "0")), **times)


class _Builder:
    """A configuration under construction. Lists and maps are extended in place, because there may be thousands of
    instructions."""

    def __init__(self, config: ImageConfig) -> None:
        self._config = config
        self._env = dict(entry.partition("=")[::2] for entry in config.env or ())
        self._labels = dict(config.labels or {})
        self._ports: dict[str, Any] = dict(config.exposed_ports or {})
        self._volumes: dict[str, Any] = dict(config.volumes or {})
        self._on_build = list(config.on_build or ())
        self._other: dict[str, Any] = {}
        self._expander = Expander(self._env)
        self._ports_left = _MOST_PORTS

    def made(self) -> ImageConfig:
        return msgspec.structs.replace(
            self._config,
            env=[f"{key}={value}" for key, value in self._env.items()] or None,
            labels=self._labels or None,
            exposed_ports=self._ports or None,
            volumes=self._volumes or None,
            on_build=self._on_build or None,
            **self._other,
        )

    def _expanded(self, name: str, text: str) -> dict[str, str]:
        """Expands all pairs. The variables have the values that they had before the instruction."""
        word = self._expander.word
        return {word(key): word(value) for key, value in [*_pairs(name, text)]}

    def _command(self, text: str) -> list[str]:
        words = _exec_form(text)
        return words if words is not None else [*(self._config.shell or ["/bin/sh", "-c"]), text]

    def cmd(self, text: str) -> None:
        self._other["cmd"] = self._command(text)

    def entrypoint(self, text: str) -> None:
        self._other["entrypoint"] = self._command(text)
        # Remove the base image's CMD, because it belongs to the base image's entrypoint. Keep a CMD that `changes` sets
        self._other.setdefault("cmd", None)

    def env(self, text: str) -> None:
        self._env.update(self._expanded("ENV", text))

    def label(self, text: str) -> None:
        self._labels.update(self._expanded("LABEL", text))

    def expose(self, text: str) -> None:
        for word in (word for part in text.split() for word in self._expander.words(part)):
            match = _PORT.fullmatch(word)
            if match is None:
                raise InvalidParameter(f"invalid containerPort: {word}")
            low, high = int(match[1]), int(match[2] or match[1])
            if not low <= high <= 65535:
                raise InvalidParameter(f"invalid range specified for port: {word}")
            self._ports_left -= high - low + 1
            if self._ports_left < 0:
                raise InvalidParameter(f"cannot expose more than {_MOST_PORTS} ports")
            protocol = (match[3] or "tcp").lower()
            self._ports.update((f"{port}/{protocol}", {}) for port in range(low, high + 1))

    def volume(self, text: str) -> None:
        words = _exec_form(text)
        for word in map(self._expander.word, text.split() if words is None else words):
            if not word.strip():
                raise InvalidParameter("VOLUME specified can not be an empty string")
            self._volumes[word] = {}

    def workdir(self, text: str) -> None:
        current = self._other.get("working_dir", self._config.working_dir)
        self._other["working_dir"] = _workdir(current, self._expander.word(text))

    def user(self, text: str) -> None:
        self._other["user"] = self._expander.word(text)

    def stop_signal(self, text: str) -> None:
        self._other["stop_signal"] = _stop_signal(self._expander.word(text))

    def on_build(self, text: str) -> None:
        self._on_build.append(_on_build(text))

    def healthcheck(self, text: str) -> None:
        self._other["healthcheck"] = _healthcheck(text)


_RULES: dict[str, Callable[[_Builder, str], None]] = {
    "CMD": _Builder.cmd,
    "ENTRYPOINT": _Builder.entrypoint,
    "ENV": _Builder.env,
    "EXPOSE": _Builder.expose,
    "HEALTHCHECK": _Builder.healthcheck,
    "LABEL": _Builder.label,
    "ONBUILD": _Builder.on_build,
    "STOPSIGNAL": _Builder.stop_signal,
    "USER": _Builder.user,
    "VOLUME": _Builder.volume,
    "WORKDIR": _Builder.workdir,
}


def _lines(changes: Iterable[str]) -> Iterator[str]:
    """The instructions, without comments and empty lines. A line that ends with a backslash continues in the next line."""
    begun = ""
    for line in "\n".join(changes).split("\n"):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        text = line.rstrip(" \t\r")
        if text.endswith("\\") and not text.endswith("\\\\"):
            begun += text[:-1]
            continue
        yield (begun + line).strip()
        begun = ""
    if begun.strip():
        yield begun.strip()


def apply(config: ImageConfig, changes: Iterable[str]) -> ImageConfig:
    """A configuration with these instructions applied, in order. Raises `InvalidParameter` with the invalid instruction in
    the message."""
    changes = list(changes)
    if not changes:
        return config
    steps: list[tuple[Callable[[_Builder, str], None], str]] = []
    for line in _lines(changes):
        word, *rest = line.split(None, 1)
        rule = _RULES.get(word.upper())
        if rule is None:
            raise InvalidParameter(f"{word[:100]} is not a valid change command")
        if not rest:
            raise InvalidParameter(f"{word.upper()} requires at least one argument")
        steps.append((rule, rest[0]))
    if not steps:
        raise InvalidParameter("file with no instructions")
    builder = _Builder(config)
    for rule, text in steps:
        rule(builder, text)
    return builder.made()
