"""Sysctls of the calling thread's network namespace, below /proc/sys/net."""

from __future__ import annotations

import os

from orlop_sdk import DriverError

__all__ = ["enable_forwarding", "forwards", "skip_duplicate_search", "write_sysctl"]


def _sysctl_path(key: str) -> str:
    # In a key with a slash, slashes are separators and dots are literal (sysctl(8)).
    parts = key.split("/") if "/" in key else key.split(".")
    if not parts or parts[0] != "net" or any(part in ("", ".", "..") for part in parts):
        raise DriverError(f"cannot set {key}: only net.* belongs to a network namespace")
    return "/proc/sys/" + "/".join(parts)


def write_sysctl(key: str, value: str) -> None:
    try:
        fd = os.open(_sysctl_path(key), os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise DriverError(f"cannot set {key} to {value}: {error.strerror}") from error


def skip_duplicate_search(link: str) -> None:
    """Disable duplicate address detection. The detection takes a second or two. Until it has finished for the link-local
    address, the kernel resolves no neighbours on the link, so no packet leaves."""
    write_sysctl(f"net/ipv6/conf/{link}/accept_dad", "0")


def _forwarding(version: int) -> str:
    return "net/ipv4/ip_forward" if version == 4 else "net/ipv6/conf/all/forwarding"


def forwards(version: int) -> bool:
    """Whether the host forwards packets of this IP version. Raises `DriverError`."""
    key = _forwarding(version)
    try:
        with open("/proc/sys/" + key) as file:
            return file.read().strip() != "0"
    except OSError as error:
        raise DriverError(f"cannot read {key}: {error.strerror}") from error


def enable_forwarding(version: int) -> None:
    """Turn on forwarding on the host. The setting is written only if it is off, because dockerd and administrators watch
    it."""
    if not forwards(version):
        write_sysctl(_forwarding(version), "1")
