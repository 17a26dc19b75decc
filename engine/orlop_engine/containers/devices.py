"""Devices for `DeviceRequests`: CDI devices, which are described by files on the host, and NVIDIA GPUs, which the hook of
NVIDIA's container toolkit adds to the container.

The CDI files are read at each start, because a vendor's tool may have rewritten them.
"""

from __future__ import annotations

import importlib
import logging
import os
import shutil
from collections.abc import Sequence
from typing import Any

import msgspec

from orlop_engine.spec import cdi
from orlop_engine.types.containers import DeviceRequest
from orlop_sdk import InvalidParameter

__all__ = ["discovered", "inject"]

log = logging.getLogger("orlop.containers")

_FILE_LIMIT = 4 << 20
_HOOK = "nvidia-container-runtime-hook"
_DRIVER_CAPABILITIES = ("compute", "compat32", "graphics", "utility", "video", "display")


def inject(spec: dict[str, Any], requests: Sequence[DeviceRequest], directories: Sequence[str] | None) -> None:
    """Edit the OCI spec so that the container has the devices. Raises `InvalidParameter` for a device that is not
    available. `directories` are the CDI directories, None when CDI is disabled."""
    for request in requests:
        if request.driver == "cdi" and directories is not None:
            _cdi(spec, request, directories)
        elif (selected := _nvidia_selects(request)) is not None:
            _nvidia(spec, request, selected)
        else:
            wanted = " ".join(f"[{' '.join(all_of)}]" for all_of in request.capabilities or ())
            raise InvalidParameter(f'could not select device driver "{request.driver}" with capabilities: [{wanted}]')


def discovered(directories: Sequence[str]) -> list[str]:
    """The names of all available CDI devices. Reads files: call it on a thread."""
    return sorted(cdi.described(_files(directory) for directory in directories))


def _cdi(spec: dict[str, Any], request: DeviceRequest, directories: Sequence[str]) -> None:
    names = request.device_ids or []
    for name in names:
        cdi.split(name)
    for edits in cdi.resolve(names, [_files(directory) for directory in directories]):
        cdi.apply(spec, edits)
    spec["mounts"].sort(key=lambda item: str(item["destination"]).rstrip("/").count("/"))


def _files(directory: str) -> dict[str, cdi.Spec]:
    """Parse all files of a directory. An invalid file is skipped with a warning."""
    found: dict[str, cdi.Spec] = {}
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return found
    for name in names:
        path = os.path.join(directory, name)
        if name.endswith((".json", ".yaml", ".yml")):
            try:
                found[path] = cdi.parse(_decode(path))
            except (OSError, ValueError, RecursionError) as error:
                log.warning("CDI file %s is ignored: %s", path, error)
    return found


def _decode(path: str) -> object:
    with open(path, "rb") as file:
        content = file.read(_FILE_LIMIT + 1)
    if len(content) > _FILE_LIMIT:
        raise ValueError(f"it is larger than {_FILE_LIMIT >> 20} MiB")
    if path.endswith(".json"):
        return msgspec.json.decode(content)
    # Imported only here, because the import takes 20 ms and few hosts have files in YAML
    yaml = importlib.import_module("yaml")
    try:
        return yaml.load(content, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def _nvidia_selects(request: DeviceRequest) -> Sequence[str] | None:
    """The capabilities to ask NVIDIA's hook for. If the request names the driver `nvidia`, these are all capabilities in the
    request. Otherwise they are the first list of capabilities in the request that the hook supports. Returns None if the
    hook is not installed or cannot serve the request."""
    if request.driver not in ("", "nvidia") or shutil.which(_HOOK) is None:
        return None
    offered = {"nvidia", "gpu", *_DRIVER_CAPABILITIES}
    if request.driver:
        return [word for all_of in request.capabilities or () for word in all_of]
    return next((all_of for all_of in request.capabilities or () if set(all_of) <= offered), None)


def _nvidia(spec: dict[str, Any], request: DeviceRequest, selected: Sequence[str]) -> None:
    if request.count and request.device_ids:
        raise InvalidParameter("cannot set both Count and DeviceIDs on device request")
    devices = ",".join(request.device_ids or ())
    if not devices and request.count:
        devices = "all" if request.count < 0 else ",".join(str(number) for number in range(request.count))
    env = [f"NVIDIA_VISIBLE_DEVICES={devices}"] if devices else []
    if wanted := [word for word in selected if word in _DRIVER_CAPABILITIES]:
        env.append(f"NVIDIA_DRIVER_CAPABILITIES={','.join(wanted)}")
    hook = cdi.Hook("prestart", shutil.which(_HOOK) or "", [_HOOK, "prestart"], [f"PATH={os.environ.get('PATH', '')}"])
    cdi.apply(spec, cdi.Edits(env=env, hooks=[hook]))
