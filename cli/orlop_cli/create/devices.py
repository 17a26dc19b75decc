"""The values of --device, --gpus and --security-opt."""

from __future__ import annotations

from orlop_cli.create.values import bad, csv_fields

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    Json = dict[str, Any]


_CDI = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*=[\w.:-]+"  # vendor/class=name


def devices(items: Iterable[str]) -> tuple[list[Json], list[Json]]:
    """Convert --device flags to (HostConfig.Devices, HostConfig.DeviceRequests). Names of CDI devices become requests."""
    mapped: list[Json] = []
    cdi: list[str] = []
    for item in items:
        import re

        if re.fullmatch(_CDI, item):
            cdi.append(item)
        else:
            mapped.append(_device(item))
    return mapped, [{"Driver": "cdi", "DeviceIDs": cdi}] if cdi else []


def _device(text: str) -> Json:
    source, *rest = text.split(":")
    if len(rest) > 2 or not source:
        raise bad(f"invalid device specification: {text}")
    target, permissions = source, "rwm"
    if len(rest) == 2:
        target, permissions = rest[0] or source, rest[1]
    elif rest and _mode(rest[0]):
        permissions = rest[0]
    elif rest:
        target = rest[0] or source
    if not _mode(permissions):
        raise bad(f"invalid device mode: {permissions}")
    return {"PathOnHost": source, "PathInContainer": target, "CgroupPermissions": permissions}


def _mode(text: str) -> bool:
    return bool(text) and set(text) <= set("rwm") and len(set(text)) == len(text)


def gpus(text: str) -> Json:
    """Convert `all`, a count, or `device=0,driver=nvidia,capabilities=utility` to a DeviceRequest."""
    request: Json = {"Driver": "", "Count": 0, "DeviceIDs": None, "Capabilities": [["gpu"]], "Options": {}}
    for field in csv_fields(text):
        key, equals, value = field.partition("=")
        if not equals or key == "count":
            request["Count"] = _count(value if equals else key)
        elif key == "device":
            request["DeviceIDs"] = value.split(",")
        elif key == "driver":
            request["Driver"] = value
        elif key == "capabilities":
            request["Capabilities"] = [[*value.split(","), "gpu"]]
        else:
            raise bad(f"unexpected key '{key}' in '{field}'")
    if request["Count"] and request["DeviceIDs"]:
        raise bad("cannot set both Count and DeviceIDs on device request")
    if not request["Count"] and not request["DeviceIDs"]:
        request["Count"] = 1
    return request


def _count(text: str) -> int:
    if text == "all":
        return -1
    try:
        return int(text)
    except ValueError:
        raise bad(f'invalid count ({text}): value must be either "all" or an integer') from None


def security(items: Iterable[str]) -> tuple[list[str], bool]:
    """Returns (HostConfig.SecurityOpt, whether system paths are unmasked). The client reads the files of profiles."""
    out: list[str] = []
    unmasked = False
    for item in items:
        key, equals, value = item.partition("=")
        if not equals:
            key, colon, value = item.partition(":")
            if not colon and item not in ("no-new-privileges", "writable-cgroups"):
                raise bad(f"invalid --security-opt: {item!r}")
        if key == "systempaths":
            unmasked = unmasked or value == "unconfined"
        elif key == "seccomp" and value not in ("unconfined", "builtin"):
            out.append(f"seccomp={_profile(value)}")
        else:
            out.append(item)
    return out, unmasked


def _profile(path: str) -> str:
    try:
        with open(path, "rb") as file:
            import json

            return json.dumps(json.load(file), separators=(",", ":"))
    except OSError as error:
        raise bad(f"opening seccomp profile ({path}) failed: {error.strerror}") from None
    except ValueError as error:
        raise bad(f"compacting json for seccomp profile ({path}) failed: {error}") from None
