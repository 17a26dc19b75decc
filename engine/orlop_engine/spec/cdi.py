"""Container Device Interface (CNCF's CDI specification, 0.3 to 1.0): vendors describe devices in files, and each description
lists edits of a container's OCI spec. The only I/O is the look-up of device nodes on the host.

A file has a `kind`, "vendor.com/class", and named devices; "vendor.com/class=name" identifies a device. The edits of a file
apply to each container that has any device of the file. The edits of a device apply to each container that has this device.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from orlop_sdk import InvalidParameter

__all__ = ["Edits", "Spec", "apply", "described", "parse", "resolve", "split"]

_VENDOR = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?\Z")
_CLASS = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?\Z")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.:-]*[A-Za-z0-9])?\Z")
_HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


class _Base(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """Unknown fields are forbidden, because a CDI file may ask for an edit that Orlop does not support. Such a file is
    refused."""


class DeviceNode(_Base):
    path: str
    host_path: str = ""
    type: str = ""
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    permissions: str = ""
    uid: int | None = None
    gid: int | None = None


class Mount(_Base):
    host_path: str
    container_path: str
    options: list[str] = []
    type: str = ""


class Hook(_Base):
    hook_name: str
    path: str
    args: list[str] = []
    env: list[str] = []
    timeout: int | None = None


class IntelRdt(_Base):
    clos_id: str = msgspec.field(default="", name="closID")
    l3_cache_schema: str = msgspec.field(default="", name="l3CacheSchema")
    mem_bw_schema: str = ""
    enable_cmt: bool = msgspec.field(default=False, name="enableCMT")
    enable_mbm: bool = msgspec.field(default=False, name="enableMBM")


class Edits(_Base):
    env: list[str] = []
    device_nodes: list[DeviceNode] = []
    mounts: list[Mount] = []
    hooks: list[Hook] = []
    additional_gids: list[int] = []
    intel_rdt: IntelRdt | None = None


class Device(_Base):
    name: str
    container_edits: Edits
    annotations: dict[str, str] = {}


class Spec(_Base):
    cdi_version: str
    kind: str
    devices: list[Device]
    container_edits: Edits = msgspec.field(default_factory=Edits)
    annotations: dict[str, str] = {}


def split(name: str) -> tuple[str, str]:
    """Split "vendor.com/class=name" into (kind, name). Raises `InvalidParameter` for anything else."""
    kind, sign, device = name.partition("=")
    vendor, slash, group = kind.partition("/")
    if not (sign and slash and _VENDOR.match(vendor) and _CLASS.match(group) and _NAME.match(device)):
        raise InvalidParameter(f"CDI device injection failed: invalid device name {name!r}: expected vendor.com/class=name")
    return kind, device


def parse(document: object) -> Spec:
    """Convert the decoded content of a file. Raises `ValueError` with the reason if it is invalid."""
    spec = msgspec.convert(document, Spec)
    for device in spec.devices:
        try:
            split(f"{spec.kind}={device.name}")
        except InvalidParameter:
            raise ValueError(f"{spec.kind}={device.name} is not a device name") from None
    for edits in (spec.container_edits, *(device.container_edits for device in spec.devices)):
        for hook in edits.hooks:
            if hook.hook_name not in _HOOKS:
                raise ValueError(f"there is no hook named {hook.hook_name}")
    return spec


def described(directories: Iterable[Mapping[str, Spec]]) -> dict[str, tuple[Spec, Device]]:
    """All devices by name. `directories` map paths to files. They are in ascending precedence, so a later directory
    overrides an earlier directory. If two files of one directory describe the same device, the device is ambiguous and
    skipped."""
    known: dict[str, tuple[Spec, Device] | None] = {}
    for files in directories:
        here: dict[str, tuple[Spec, Device] | None] = {}
        for _, spec in sorted(files.items()):
            for device in spec.devices:
                name = f"{spec.kind}={device.name}"
                here[name] = None if name in here else (spec, device)
        known |= here
    return {name: found for name, found in known.items() if found}


def resolve(names: Iterable[str], directories: Iterable[Mapping[str, Spec]]) -> list[Edits]:
    """The edits for the devices with these names. `directories`: see `described`."""
    known = described(directories)
    wanted = list(dict.fromkeys(names))
    missing = [name for name in wanted if name not in known]
    if missing:
        raise InvalidParameter(f"CDI device injection failed: unresolvable CDI devices {', '.join(missing)}")
    found: list[Edits] = []
    seen: list[Spec] = []
    for name in wanted:
        spec, device = known[name]
        if not any(spec is other for other in seen):
            seen.append(spec)
            found.append(spec.container_edits)
        found.append(device.container_edits)
    return found


def apply(spec: dict[str, Any], edits: Edits) -> None:
    """Apply these edits to the OCI spec, in place."""
    process, linux = spec["process"], spec["linux"]
    names = {entry.partition("=")[0] for entry in edits.env}
    process["env"] = [entry for entry in process["env"] if entry.partition("=")[0] not in names] + edits.env
    groups = process["user"]["additionalGids"]
    process["user"]["additionalGids"] = list(dict.fromkeys([*groups, *(gid for gid in edits.additional_gids if gid)]))
    for wanted in edits.device_nodes:
        _add_node(linux, wanted, process["user"])
    for mount in edits.mounts:
        made = {
            "destination": mount.container_path,
            "type": mount.type or "bind",
            "source": mount.host_path,
            "options": list(mount.options) if mount.type or "rbind" in mount.options else ["bind", *mount.options],
        }
        spec["mounts"] = [other for other in spec["mounts"] if other["destination"] != mount.container_path] + [made]
    for hook in edits.hooks:
        entry: dict[str, Any] = {"path": hook.path, "args": hook.args, "env": hook.env}
        if hook.timeout is not None:
            entry["timeout"] = hook.timeout
        spec.setdefault("hooks", {}).setdefault(hook.hook_name, []).append(entry)
    if edits.intel_rdt is not None:
        linux["intelRdt"] = {key: value for key, value in msgspec.to_builtins(edits.intel_rdt).items() if value}


def _add_node(linux: dict[str, Any], wanted: DeviceNode, user: Mapping[str, Any]) -> None:
    source = wanted.host_path or wanted.path
    kind, major, minor, mode = wanted.type, wanted.major, wanted.minor, wanted.file_mode
    if not kind or (kind != "p" and not major):
        try:
            info = os.stat(source)
        except OSError as error:
            raise InvalidParameter(f"CDI device injection failed: stat {source}: {(error.strerror or '').lower()}") from None
        kinds = {stat.S_IFCHR: "c", stat.S_IFBLK: "b", stat.S_IFIFO: "p"}
        found = kinds.get(stat.S_IFMT(info.st_mode))
        if found is None or kind.replace("u", "c") not in ("", found):
            raise InvalidParameter(f"CDI device injection failed: {source} is not a device of the type given in its file")
        kind, major, minor = found, os.major(info.st_rdev), os.minor(info.st_rdev)
        mode = stat.S_IMODE(info.st_mode) if mode is None else mode
    kind = kind.replace("u", "c")  # "u" is an unbuffered character device
    node: dict[str, Any] = {"path": wanted.path, "type": kind, "major": major, "minor": minor}
    if mode is not None:
        node["fileMode"] = mode
    for key, own in (("uid", wanted.uid), ("gid", wanted.gid)):
        # The owner of a node without a configured owner is the user of the process, because the process must be able to open
        # the node.
        if (value := own if own is not None else user[key]) or own is not None:
            node[key] = value
    linux["devices"] = [other for other in linux.get("devices", ()) if other["path"] != wanted.path] + [node]
    if kind in "bc":
        linux["resources"].setdefault("devices", []).append(
            {"allow": True, "type": kind, "major": major, "minor": minor, "access": wanted.permissions or "rwm"}
        )
