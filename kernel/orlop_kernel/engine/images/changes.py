"""`changes` of import and commit: Dockerfile instructions that alter a configuration (builder/dockerfile). Sans-IO."""

from __future__ import annotations

import json
import re
import shlex
import signal
from collections.abc import Callable, Iterable

import msgspec

from orlop_kernel.spi import InvalidParameter
from orlop_kernel.types.images import ImageConfig, ImageHealthcheck

__all__ = ["apply"]

Rule = Callable[[ImageConfig, str], ImageConfig]
_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?", re.IGNORECASE)
_UNIT = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|h)")
_NO_WORDS = "{} requires at least one argument"


def _exec_form(text: str) -> list[str] | None:
    """A JSON list of strings, or None."""
    if not text.startswith("["):
        return None
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, list) and all(isinstance(item, str) for item in value) else None


def _command(config: ImageConfig, text: str) -> list[str]:
    words = _exec_form(text)
    return words if words is not None else [*(config.shell or ["/bin/sh", "-c"]), text]


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise InvalidParameter(f"cannot parse {text!r}: {error}") from error


def _pairs(name: str, text: str) -> dict[str, str]:
    """`K=V K2="a b"`, or the old `K the rest`."""
    first = text.split(None, 1)
    if first and "=" not in first[0]:
        if len(first) < 2:
            raise InvalidParameter(f"{name} must have two arguments")
        return {first[0]: first[1]}
    result = {}
    for word in _words(text):
        key, equals, value = word.partition("=")
        if not equals:
            raise InvalidParameter(f"Syntax error - can't find = in {json.dumps(word)}. Must be of the form: name=value")
        if not key:
            raise InvalidParameter(f"{name} names can not be blank")
        result[key] = value
    return result


def _cmd(config: ImageConfig, text: str) -> ImageConfig:
    return msgspec.structs.replace(config, cmd=_command(config, text))


def _entrypoint(config: ImageConfig, text: str) -> ImageConfig:
    return msgspec.structs.replace(config, entrypoint=_command(config, text))


def _env(config: ImageConfig, text: str) -> ImageConfig:
    env = dict(entry.partition("=")[::2] for entry in config.env or ())
    env.update(_pairs("ENV", text))
    return msgspec.structs.replace(config, env=[f"{key}={value}" for key, value in env.items()])


def _label(config: ImageConfig, text: str) -> ImageConfig:
    return msgspec.structs.replace(config, labels={**(config.labels or {}), **_pairs("LABEL", text)})


def _expose(config: ImageConfig, text: str) -> ImageConfig:
    ports = dict(config.exposed_ports or {})
    for word in _words(text):
        match = _PORT.fullmatch(word)
        if match is None:
            raise InvalidParameter(f"invalid containerPort: {word}")
        low, high = int(match[1]), int(match[2] or match[1])
        if not low <= high <= 65535:
            raise InvalidParameter(f"invalid range specified for port: {word}")
        for port in range(low, high + 1):
            ports[f"{port}/{(match[3] or 'tcp').lower()}"] = {}
    return msgspec.structs.replace(config, exposed_ports=ports)


def _volume(config: ImageConfig, text: str) -> ImageConfig:
    words = _exec_form(text)
    words = _words(text) if words is None else words
    if not all(word.strip() for word in words):
        raise InvalidParameter("VOLUME specified can not be an empty string")
    return msgspec.structs.replace(config, volumes={**(config.volumes or {}), **{word: {} for word in words}})


def _workdir(config: ImageConfig, text: str) -> ImageConfig:
    path = text if text.startswith("/") else f"{config.working_dir or '/'}/{text}"
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return msgspec.structs.replace(config, working_dir="/" + "/".join(parts))


def _user(config: ImageConfig, text: str) -> ImageConfig:
    return msgspec.structs.replace(config, user=text)


def _stop_signal(config: ImageConfig, text: str) -> ImageConfig:
    name = text.upper()
    number = int(text) if text.isdigit() and len(text) < 4 else 0
    known = {one.name for one in signal.Signals}
    realtime = re.fullmatch(r"(SIG)?RTM(IN(\+\d{1,2})?|AX(-\d{1,2})?)", name)
    if not (0 < number <= 64 or name in known or f"SIG{name}" in known or realtime):
        raise InvalidParameter(f"invalid signal: {text}")
    return msgspec.structs.replace(config, stop_signal=text)


def _on_build(config: ImageConfig, text: str) -> ImageConfig:
    word = text.split(None, 1)[0].upper()
    if word == "ONBUILD":
        raise InvalidParameter("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if word in ("FROM", "MAINTAINER"):
        raise InvalidParameter(f"{word} isn't allowed as an ONBUILD trigger")
    return msgspec.structs.replace(config, on_build=[*(config.on_build or []), text])


def _duration(name: str, text: str) -> int:
    pieces = _DURATION.findall(text)
    if not pieces or "".join(number + unit for number, unit in pieces) != text:
        raise InvalidParameter(f'time: invalid duration "{text}"')
    total = sum(int(float(number) * _UNIT[unit]) for number, unit in pieces)
    if total and total < 10**6:
        raise InvalidParameter(f'Interval "{name}" cannot be less than 1ms')
    return total


def _healthcheck(config: ImageConfig, text: str) -> ImageConfig:
    options: dict[str, str] = {}
    while match := re.match(r"--([a-z-]+)=(\S+)\s*", text):
        options[match[1]], text = match[2], text[match.end() :]
    kind, _, rest = text.partition(" ")
    if kind.upper() == "NONE":
        return msgspec.structs.replace(config, healthcheck=ImageHealthcheck(["NONE"]))
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
        elif name != "retries" or not value.isdigit():
            raise InvalidParameter(f"Unknown flag: {name}" if name != "retries" else "--retries must be at least 1 (not 0)")
    test = ["CMD-SHELL", rest.strip()] if command is None else ["CMD", *command]
    check = ImageHealthcheck(test, retries=int(options.get("retries", "0")), **times)
    return msgspec.structs.replace(config, healthcheck=check)


_RULES: dict[str, Rule] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "ONBUILD": _on_build,
    "STOPSIGNAL": _stop_signal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}


def apply(config: ImageConfig, changes: Iterable[str]) -> ImageConfig:
    """A configuration with these instructions applied, in order. `InvalidParameter` names the one that cannot be."""
    for change in changes:
        for line in re.sub(r"\\\n", " ", change).splitlines():
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            word, _, rest = line.strip().partition(" ")
            rule = _RULES.get(word.upper())
            if rule is None:
                raise InvalidParameter(f"{word} is not a valid change command")
            if not rest.strip():
                raise InvalidParameter(_NO_WORDS.format(word.upper()))
            config = rule(config, rest.strip())
    return config
