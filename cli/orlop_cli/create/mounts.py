"""The values of `--mount`, `-v` and `--tmpfs`."""

from __future__ import annotations

import os

from orlop_cli.create.values import bad, csv_fields, parsed
from orlop_cli.values.types import boolean
from orlop_cli.values.units import parse_bytes

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    Json = dict[str, Any]


def binds(volumes: Iterable[str]) -> tuple[list[str], dict[str, Json]]:
    """Convert -v flags to (HostConfig.Binds, Config.Volumes). A value with a colon has a source; without a colon, the volume
    is anonymous."""
    bound: list[str] = []
    anonymous: dict[str, Json] = {}
    for text in volumes:
        source, colon, rest = text.partition(":")
        if not colon:
            anonymous[text] = {}
        elif not source or not rest:
            raise bad(f"invalid spec: {text}: empty section between colons")
        else:
            # As in Docker, names stay unchanged, and ./path and ../path become absolute, because the daemon cannot resolve
            # them.
            bound.append(f"{os.path.abspath(source) if source.startswith('.') else source}:{rest}")
    return bound, anonymous


def tmpfs(items: Iterable[str]) -> dict[str, str]:
    """Convert --tmpfs flags to HostConfig.Tmpfs."""
    return {path: options for path, _, options in (item.partition(":") for item in items)}


def mount(text: str) -> Json:
    """Convert one --mount to an element of HostConfig.Mounts. Raises UsageProblem with Docker's messages."""
    return parsed("--mount", text, _mount)


def _mount(text: str) -> Json:
    made: Json = {"Type": "volume"}
    fields = [field.partition("=") for field in csv_fields(text)]
    for key, equals, value in fields:
        _apply(made, key.lower(), equals, value)
    if "Target" not in made:
        raise bad("target is required")
    _check(made, {key.lower() for key, _, _ in fields})
    return made


def _apply(made: Json, key: str, equals: str, value: str) -> None:
    if not equals and key not in ("readonly", "ro", "volume-nocopy", "bind-nonrecursive"):
        raise bad(f"invalid field '{key}' must be a key=value pair")
    if key == "type":
        made["Type"] = value.lower()
    elif key in ("source", "src"):
        made["Source"] = os.path.abspath(value) if value.startswith(".") else value
    elif key in ("target", "dst", "destination"):
        made["Target"] = value
    elif key in ("readonly", "ro"):
        made["ReadOnly"] = _bool(key, equals, value)
    elif key == "consistency":
        made["Consistency"] = value.lower()
    elif key.startswith("bind-"):
        _bind(made.setdefault("BindOptions", {}), key, equals, value)
    elif key.startswith("volume-"):
        _volume(made.setdefault("VolumeOptions", {}), key, equals, value)
    elif key.startswith("tmpfs-"):
        _tmpfs(made.setdefault("TmpfsOptions", {}), key, value)
    elif key == "image-subpath":
        made.setdefault("ImageOptions", {})["Subpath"] = value
    else:
        raise bad(f"unexpected key '{key}' in '{key}={value}'")


def _bool(key: str, equals: str, value: str) -> bool:
    if not equals:
        return True
    try:
        return boolean(value)
    except ValueError:
        raise bad(f"invalid value for {key}: {value}") from None


def _bind(options: Json, key: str, equals: str, value: str) -> None:
    if key == "bind-propagation":
        options["Propagation"] = value.lower()
    elif key == "bind-nonrecursive":
        options["NonRecursive"] = _bool(key, equals, value)
    elif key == "bind-recursive":
        known: dict[str, Json] = {
            "enabled": {},
            "disabled": {"NonRecursive": True},
            "writable": {"ReadOnlyNonRecursive": True},
            "readonly": {"ReadOnlyForceRecursive": True},
        }
        if value not in known:
            raise bad(f"invalid value for {key}: {value} (must be one of {', '.join(known)})")
        options.update(known[value])
    elif key == "bind-create-src":
        options["CreateMountpoint"] = _bool(key, equals, value)
    else:
        raise bad(f"unexpected key '{key}' in '{key}={value}'")


def _volume(options: Json, key: str, equals: str, value: str) -> None:
    if key == "volume-nocopy":
        options["NoCopy"] = _bool(key, equals, value)
    elif key == "volume-subpath":
        options["Subpath"] = value
    elif key == "volume-label":
        name, _, text = value.partition("=")
        options.setdefault("Labels", {})[name] = text
    elif key == "volume-driver":
        options.setdefault("DriverConfig", {})["Name"] = value
    elif key == "volume-opt":
        name, _, text = value.partition("=")
        options.setdefault("DriverConfig", {}).setdefault("Options", {})[name] = text
    else:
        raise bad(f"unexpected key '{key}' in '{key}={value}'")


def _tmpfs(options: Json, key: str, value: str) -> None:
    try:
        if key == "tmpfs-size":
            options["SizeBytes"] = parse_bytes(value)
        elif key == "tmpfs-mode":
            options["Mode"] = int(value, 8)
        else:
            raise bad(f"unexpected key '{key}' in '{key}={value}'")
    except ValueError:
        raise bad(f"invalid value for {key}: {value}") from None


def _check(made: Json, keys: set[str]) -> None:
    kind = made["Type"]
    for prefix in ("bind", "volume", "tmpfs", "image"):
        stray = sorted(key for key in keys if key.startswith(f"{prefix}-"))
        if stray and kind != prefix:
            raise bad(f"cannot mix '{prefix}-*' options with mount type '{kind}'")


def needed_version(mounts: Iterable[Json]) -> tuple[tuple[int, int], str] | None:
    """The newest API version that a mount needs, and the field that needs it. Fields that need no newer version than
    BASE_API are not considered."""
    need: tuple[tuple[int, int], str] | None = None
    for made in mounts:
        for version, field, present in (
            (
                (1, 44),
                "bind-recursive",
                {"ReadOnlyNonRecursive", "ReadOnlyForceRecursive"} & set(made.get("BindOptions", {})),
            ),
            ((1, 45), "volume-subpath", "Subpath" in made.get("VolumeOptions", {})),
            ((1, 48), "type=image", made["Type"] == "image"),
        ):
            if present and (need is None or version > need[0]):
                need = (version, field)
    return need
