"""The values of RUN --mount and --device."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from .goformat import csv_fields, parse_bool, parse_int, parse_size, quote
from .suggest import suggestion

__all__ = ["Device", "Mount", "check_mount", "parse_device", "parse_mount"]

_TYPES = ("bind", "cache", "tmpfs", "secret", "ssh")
_SHARING = ("shared", "private", "locked")
_KEYS = (
    "type from source target readonly id sharing required size mode uid gid src dst destination ro rw readwrite env".split()
)


class Mount(msgspec.Struct, frozen=True, kw_only=True):
    """`id` identifies a cache, a secret or an agent. `readonly` is set for bind mounts unless "rw" is given."""

    type: str = "bind"
    source_stage: str = ""
    source: str = ""
    target: str = ""
    readonly: bool = False
    size: int = 0
    id: str = ""
    sharing: str = ""
    required: bool = False
    env: str | None = None
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None


class Device(msgspec.Struct, frozen=True):
    name: str
    required: bool


def check_mount(text: str) -> tuple[str, str]:
    """The type and "from" of a mount whose variables are not known yet. These values show which stages the mount needs."""
    kind, source = "bind", ""
    for field in _fields(text):
        key, equals, value = field.partition("=")
        if equals and key.lower() == "from":
            if "$" in value[:-1]:
                raise ValueError(f"'{key.lower()}' doesn't support variable expansion, define alias stage instead")
            source = value
        elif equals and key.lower() == "type":
            kind = value.lower()
    return kind, source


def _fields(text: str) -> list[str]:
    try:
        return csv_fields(text)
    except ValueError as error:
        raise ValueError(f"failed to parse csv mounts: {error}") from None


def parse_mount(text: str, expand: Callable[[str], str]) -> Mount:
    """Parse a mount. Raises `ValueError` with BuildKit's message."""
    values: dict[str, object] = {}
    readonly: bool | None = None
    for field in _fields(text):
        key, equals, value = field.partition("=")
        key = key.lower()
        kind = str(values.get("type", "bind"))
        if not equals:
            if key in ("readonly", "ro", "readwrite", "rw"):
                readonly = key in ("readonly", "ro")
            elif key == "required":
                _only(key, kind, "secret", "ssh")
                values["required"] = True
            else:
                raise ValueError(f"invalid field '{field}' must be a key=value pair")
            continue
        value = expand(value)
        if key in ("readonly", "ro", "readwrite", "rw"):
            readonly = _bool(key, value) == (key in ("readonly", "ro"))
        else:
            name, parsed = _option(key, value, kind, field)
            values[name] = parsed
    mount: Mount = msgspec.convert(values, Mount)
    return _validated(mount, readonly)


def _only(key: str, kind: str, *allowed: str) -> None:
    if kind not in allowed:
        raise ValueError(f"unexpected key '{key}' for mount type '{kind}'")


def _bool(key: str, value: str) -> bool:
    parsed = parse_bool(value)
    if parsed is None:
        raise ValueError(f"invalid value for {key}: {value}")
    return parsed


def _number(key: str, value: str) -> int:
    try:
        return parse_int(value, 8 if key == "mode" else 10, 32)
    except ValueError:
        raise ValueError(f"invalid value {value} for {key}") from None


def _option(key: str, value: str, kind: str, field: str) -> tuple[str, object]:
    """The name of the field of `Mount`, and its value."""
    if key == "type":
        return "type", _one_of(value, _TYPES, "unsupported mount type")
    if key == "sharing":
        return "sharing", _one_of(value, _SHARING, "unsupported sharing value")
    if key == "from":
        return "source_stage", value
    if key in ("source", "src"):
        return "source", value
    if key in ("target", "dst", "destination"):
        return "target", value
    if key in ("id", "env"):
        return key, value
    if key == "required":
        _only(key, kind, "secret", "ssh")
        return key, _bool(key, value)
    if key == "size":
        _only(key, kind, "tmpfs")
        try:
            return key, parse_size(value)
        except ValueError:
            raise ValueError(f"invalid value for {key}: {value}") from None
    if key in ("mode", "uid", "gid"):
        return key, _number(key, value)
    raise ValueError(f"unexpected key '{key}' in '{field}'{suggestion(key, _KEYS)}")


def _one_of(value: str, allowed: tuple[str, ...], what: str) -> str:
    if value.lower() not in allowed:
        raise ValueError(f"{what} {quote(value)}{suggestion(value, allowed)}")
    return value.lower()


def _validated(mount: Mount, readonly: bool | None) -> Mount:
    if mount.type not in ("secret", "ssh", "cache"):
        for name in ("mode", "uid", "gid"):
            if getattr(mount, name) is not None:
                raise ValueError(f"{name} not allowed for {quote(mount.type)} type mounts")
    if mount.env is not None and mount.type != "secret":
        raise ValueError("env is only supported for secret mounts")
    if mount.type == "secret":
        if mount.source_stage:
            raise ValueError("secret mount should not have a from")
        if mount.sharing:
            raise ValueError("secret mount should not define sharing")
        if not mount.source and not mount.target and not mount.id:
            raise ValueError("invalid secret mount. one of source, target required")
        if mount.source and mount.id:
            raise ValueError("both source and id can't be set")
    if mount.sharing and mount.type != "cache":
        raise ValueError(f"invalid cache sharing set for {mount.type} mount")
    if readonly is None:
        readonly = mount.type not in ("cache", "tmpfs")
    return msgspec.structs.replace(mount, readonly=readonly)


def parse_device(text: str) -> Device:
    try:
        fields = csv_fields(text)
    except ValueError as error:
        raise ValueError(f"failed to parse csv devices: {error}") from None
    name, required = "", False
    for field in fields:
        key, equals, value = field.partition("=")
        key = key.lower()
        if key == "required":
            required = _bool(key, value) if equals else True
        elif key == "name" and equals:
            if name:
                raise ValueError(f"device name already set to {name}")
            name = value
        elif not name:
            name = field
        elif not equals:
            raise ValueError(f"invalid field '{field}' must be a key=value pair")
        else:
            raise ValueError(f"unexpected key '{key}' in '{field}'{suggestion(key, ('name', 'required'))}")
    return Device(name, required)
