"""What `DeviceRequests` get: CDI devices, described in files of the host; NVIDIA's GPUs, by its toolkit's hook.

Files are read at each start: a vendor's tool may have written them since the last.
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

log = logging.getLogger(__name__)

_FILE_LIMIT = 4 << 20
_HOOK = "nvidia-container-runtime-hook"
_DRIVER_CAPABILITIES = ("compute", "compat32", "graphics", "utility", "video", "display")


def inject(spec: dict[str, Any], requests: Sequence[DeviceRequest], directories: Sequence[str] | None) -> None:
    """Change the OCI spec so that the container has the devices. `InvalidParameter` where one cannot be had. `directories`:
    of CDI, None without it."""
    for request in requests:
        if request.driver == "cdi" and directories is not None:
            _cdi(spec, request, directories)
        elif (selected := _nvidia_selects(request)) is not None:
            _nvidia(spec, request, selected)
        else:
            wanted = " ".join(f"[{' '.join(all_of)}]" for all_of in request.capabilities or ())
            raise InvalidParameter(f'could not select device driver "{request.driver}" with capabilities: [{wanted}]')


def discovered(directories: Sequence[str]) -> list[str]:
    """Names of all devices of CDI that a container could have. Reads files: for a thread."""
    return sorted(cdi.described(_files(directory) for directory in directories))


def _cdi(spec: dict[str, Any], request: DeviceRequest, directories: Sequence[str]) -> None:
    names = request.device_ids or []
    for name in names:
        cdi.split(name)
    for edits in cdi.resolve(names, [_files(directory) for directory in directories]):
        cdi.apply(spec, edits)
    spec["mounts"].sort(key=lambda item: str(item["destination"]).rstrip("/").count("/"))


def _files(directory: str) -> dict[str, cdi.Spec]:
    """All that can be read of a directory. One file that is wrong takes nothing from the others."""
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
                log.warning("CDI file %s is left out: %s", path, error)
    return found


def _decode(path: str) -> object:
    with open(path, "rb") as file:
        content = file.read(_FILE_LIMIT + 1)
    if len(content) > _FILE_LIMIT:
        raise ValueError(f"it is larger than {_FILE_LIMIT >> 20} MiB")
    if path.endswith(".json"):
        return msgspec.json.decode(content)
    yaml = importlib.import_module("yaml")  # 20 ms, for those who have such files
    try:
        return yaml.load(content, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def _nvidia_selects(request: DeviceRequest) -> Sequence[str] | None:
    """The capabilities under which NVIDIA's hook serves this request: the first of its lists that it can."""
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
