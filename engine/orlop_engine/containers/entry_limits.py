"""Limits on the number of mounts, devices, names and other entries of a container.

Each entry costs system calls at the start, some of them in the daemon, and appears in every inspect. Without limits, one
request can keep the daemon busy for minutes, and leave thousands of volumes behind. The limits are far above practical use.
"""

from __future__ import annotations

from orlop_engine.types.containers import CreateRequest, HostConfig
from orlop_sdk import InvalidParameter

__all__ = ["MOUNTS", "check"]

MOUNTS = 1_000
"""Mounts of a container, of all kinds. The kernel allows 100,000 in a mount namespace (fs.mount-max)."""

_FEW = 100
_MANY = 1_000
_LISTS = {
    "volumes_from": ("VolumesFrom", _FEW),
    "security_opt": ("SecurityOpt", _FEW),
    "links": ("Links", _MANY),
    "dns": ("Dns", _FEW),
    "dns_options": ("DnsOptions", _FEW),
    "dns_search": ("DnsSearch", _FEW),
    "extra_hosts": ("ExtraHosts", _MANY),
    "group_add": ("GroupAdd", _MANY),
    "cap_add": ("CapAdd", _FEW),
    "cap_drop": ("CapDrop", _FEW),
    "sysctls": ("Sysctls", _MANY),
    "storage_opt": ("StorageOpt", _FEW),
    "masked_paths": ("MaskedPaths", _MANY),
    "readonly_paths": ("ReadonlyPaths", _MANY),
    "devices": ("Devices", _MANY),
    "device_requests": ("DeviceRequests", _FEW),
    "device_cgroup_rules": ("DeviceCgroupRules", _MANY),
    "ulimits": ("Ulimits", _FEW),
    "blkio_weight_device": ("BlkioWeightDevice", _MANY),
    "blkio_device_read_bps": ("BlkioDeviceReadBps", _MANY),
    "blkio_device_write_bps": ("BlkioDeviceWriteBps", _MANY),
    "blkio_device_read_iops": ("BlkioDeviceReadIOps", _MANY),
    "blkio_device_write_iops": ("BlkioDeviceWriteIOps", _MANY),
}


def check(config: CreateRequest, host: HostConfig) -> None:
    """Raise InvalidParameter when a request exceeds a limit."""
    mounts = sum(len(given or ()) for given in (host.binds, host.mounts, host.tmpfs, config.volumes))
    if mounts > MOUNTS:
        raise InvalidParameter(f"too many mounts: {mounts}, at most {MOUNTS} are allowed")
    for field, (name, limit) in _LISTS.items():
        value = getattr(host, field)
        if value and not isinstance(value, str) and len(value) > limit:
            raise InvalidParameter(f"too many entries in {name}: {len(value)}, at most {limit} are allowed")
    endpoints = (config.networking_config.endpoints_config or {}) if config.networking_config else {}
    if len(endpoints) > _MANY:
        raise InvalidParameter(f"too many entries in EndpointsConfig: {len(endpoints)}, at most {_MANY} are allowed")
    options = host.log_config.config or {}
    if len(options) > _FEW:
        raise InvalidParameter(f"too many entries in LogConfig.Config: {len(options)}, at most {_FEW} are allowed")
