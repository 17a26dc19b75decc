"""cgroup limits: convert `HostConfig`'s resource fields to OCI `linux.resources`. The runtime converts them to cgroup
v2.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Any

from orlop_engine.types.containers import Device, Resources, ThrottleDevice
from orlop_sdk import InvalidParameter

__all__ = ["device_nodes", "host_devices", "of", "privileged_devices"]

# The device rules of Docker's containers, in Docker's order: deny all, then allow zero, null, urandom, random, tty, console.
# Docker's last rule, which denies fuse, is omitted, because it has no effect, and crun's systemd manager (before 1.22)
# refuses any denial except the first.
_DEVICE_RULES: tuple[dict[str, Any], ...] = (
    {"allow": False, "access": "rwm"},
    *({"allow": True, "type": "c", "major": 1, "minor": minor, "access": "rwm"} for minor in (5, 3, 9, 8)),
    *({"allow": True, "type": "c", "major": 5, "minor": minor, "access": "rwm"} for minor in (0, 1)),
)


def of(given: Resources, *, privileged: bool = False, devices: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """The OCI resources of a container. `devices` are the nodes to allow."""
    out: dict[str, Any] = {"devices": _device_rules(given, privileged, devices or [])}
    for name, part in (
        ("memory", _memory(given)),
        ("cpu", _cpu(given)),
        ("blockIO", _block_io(given)),
        ("pids", {"limit": given.pids_limit} if given.pids_limit and given.pids_limit > 0 else {}),
    ):
        if part:
            out[name] = part
    return out


def _device_rules(given: Resources, privileged: bool, devices: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if privileged:
        return [{"allow": True, "access": "rwm"}]
    rules = list(_DEVICE_RULES)
    rules += [
        {"allow": True, "type": node["type"], "major": node["major"], "minor": node["minor"], "access": node["access"]}
        for node in devices
    ]
    for text in given.device_cgroup_rules or ():
        kind, numbers, access = text.split()
        rule: dict[str, Any] = {"allow": True, "type": kind, "access": access}
        for name, number in zip(("major", "minor"), numbers.split(":"), strict=True):
            if number != "*":
                rule[name] = int(number)
        rules.append(rule)
    return rules


def _memory(given: Resources) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if given.memory:
        out["limit"] = given.memory
    if given.memory_reservation:
        out["reservation"] = given.memory_reservation
    if given.memory_swap:
        out["swap"] = given.memory_swap
    if given.memory_swappiness is not None and given.memory_swappiness >= 0:
        out["swappiness"] = given.memory_swappiness
    if given.oom_kill_disable:
        out["disableOOMKiller"] = True
    return out


def _cpu(given: Resources) -> dict[str, Any]:
    quota, period = given.cpu_quota, given.cpu_period
    if given.nano_cpus:
        period = 100_000
        quota = given.nano_cpus * period // 1_000_000_000
    fields = {
        "shares": given.cpu_shares,
        "quota": quota,
        "period": period,
        "cpus": given.cpuset_cpus,
        "mems": given.cpuset_mems,
        "realtimePeriod": given.cpu_realtime_period,
        "realtimeRuntime": given.cpu_realtime_runtime,
    }
    return {name: value for name, value in fields.items() if value}


def _numbers(path: str) -> tuple[int, int]:
    """The major and minor number of a block device."""
    try:
        info = os.stat(path)
    except OSError as error:
        raise InvalidParameter(f"stat {path}: {(error.strerror or '').lower()}") from None
    if not stat.S_ISBLK(info.st_mode):
        raise InvalidParameter(f"cannot limit the rate of {path}: not a block device")
    return os.major(info.st_rdev), os.minor(info.st_rdev)


def _throttle(devices: list[ThrottleDevice]) -> list[dict[str, int]]:
    out = []
    for device in devices:
        major, minor = _numbers(device.path)
        out.append({"major": major, "minor": minor, "rate": device.rate})
    return out


def _block_io(given: Resources) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if given.blkio_weight:
        out["weight"] = given.blkio_weight
    if given.blkio_weight_device:
        weights = []
        for item in given.blkio_weight_device:
            major, minor = _numbers(item.path)
            weights.append({"major": major, "minor": minor, "weight": item.weight})
        out["weightDevice"] = weights
    for name, devices in (
        ("throttleReadBpsDevice", given.blkio_device_read_bps),
        ("throttleWriteBpsDevice", given.blkio_device_write_bps),
        ("throttleReadIOPSDevice", given.blkio_device_read_iops),
        ("throttleWriteIOPSDevice", given.blkio_device_write_iops),
    ):
        if devices:
            out[name] = _throttle(devices)
    return out


def _node(path: str, inside: str, access: str) -> dict[str, Any]:
    info = os.stat(path)
    if stat.S_ISCHR(info.st_mode):
        kind = "c"
    elif stat.S_ISBLK(info.st_mode):
        kind = "b"
    else:
        raise InvalidParameter(f'error gathering device information while adding custom device "{path}": not a device node')
    return {
        "path": inside,
        "type": kind,
        "major": os.major(info.st_rdev),
        "minor": os.minor(info.st_rdev),
        "fileMode": stat.S_IMODE(info.st_mode),
        "uid": info.st_uid,
        "gid": info.st_gid,
        "access": access,
    }


def device_nodes(devices: list[Device]) -> list[dict[str, Any]]:
    """The device nodes of `--device`: a path, a symlink to a device, or a directory of devices."""
    out = []
    for device in devices:
        host = os.path.realpath(device.path_on_host)
        inside = device.path_in_container or device.path_on_host
        access = device.cgroup_permissions or "rwm"
        try:
            if os.path.isdir(host):
                out += _below(host, inside, access)
            else:
                out.append(_node(host, inside, access))
        except OSError as error:
            raise InvalidParameter(
                f'error gathering device information while adding custom device "{device.path_on_host}": '
                + (error.strerror or "").lower()
            ) from None
    return out


def _below(host: str, inside: str, access: str) -> list[dict[str, Any]]:
    out = []
    for directory, _, names in os.walk(host):
        for name in sorted(names):
            path = os.path.join(directory, name)
            if stat.S_ISCHR(mode := os.lstat(path).st_mode) or stat.S_ISBLK(mode):
                out.append(_node(path, os.path.join(inside, os.path.relpath(path, host)), access))
    if not out:
        raise OSError(errno.ENODEV, "not a device node")
    return out


def privileged_devices(devices: list[Device]) -> list[dict[str, Any]]:
    """All device nodes of the host, and the requested devices that have another path in the container."""
    renamed = [device for device in devices if device.path_in_container not in ("", device.path_on_host)]
    return host_devices() + device_nodes(renamed)


def host_devices() -> list[dict[str, Any]]:
    """Every device node of the host, for privileged containers, except the nodes that the runtime creates itself."""
    skip = {"/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/console", "/dev/fd", "/dev/.lxc", "/dev/.lxd-mounts"}
    out = []
    for directory, directories, names in os.walk("/dev"):
        directories[:] = [name for name in directories if os.path.join(directory, name) not in skip]
        for name in names:
            path = os.path.join(directory, name)
            try:
                mode = os.lstat(path).st_mode
                if path not in skip and (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)):
                    out.append(_node(path, path, "rwm"))
            except OSError:
                continue  # the device was unplugged between listing and stat
    return out
