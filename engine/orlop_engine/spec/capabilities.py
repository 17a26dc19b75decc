"""Linux capabilities: Docker's default set, and the effect of `--cap-add`, `--cap-drop` and `--privileged`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from orlop_sdk import InvalidParameter

__all__ = ["DEFAULT", "available", "effective"]

# The index in this list is the capability's number in the kernel (capabilities(7)).
NAMES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
    "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT "
    "SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP "
    "MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
).split()

DEFAULT = tuple(
    f"CAP_{name}"
    for name in (
        "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL "
        "AUDIT_WRITE"
    ).split()
)


@cache
def available() -> tuple[str, ...]:
    """The capabilities that this process can grant: its bounding set."""
    with open("/proc/self/status") as file:
        mask = next(int(line.split()[1], 16) for line in file if line.startswith("CapBnd:"))
    return tuple(f"CAP_{name}" for number, name in enumerate(NAMES) if mask >> number & 1)


def _normalise(names: Sequence[str]) -> list[str]:
    known = {f"CAP_{name}" for name in NAMES}
    out = []
    for given in names:
        name = given.strip().upper()
        if name != "ALL":
            name = name if name.startswith("CAP_") else f"CAP_{name}"
            if name not in known:
                raise InvalidParameter(f'unknown capability: "{name}"')
            if name not in available():
                raise InvalidParameter(
                    f'capability not supported by your kernel or not available in the current environment: "{name}"'
                )
        out.append(name)
    return out


def effective(add: Sequence[str], drop: Sequence[str], privileged: bool) -> tuple[str, ...]:
    """The container's bounding set. The first matching rule applies. A privileged container has all capabilities. With
    `--cap-add ALL`, the set contains all capabilities except the dropped capabilities. With `--cap-drop ALL`, the set
    contains exactly the added capabilities. Otherwise the set contains the default capabilities without the dropped
    capabilities, and the added capabilities."""
    adds, drops = _normalise(add), _normalise(drop)
    if privileged:
        return available()
    if "ALL" in adds:
        return tuple(name for name in available() if name not in drops)
    if "ALL" in drops:
        return tuple(dict.fromkeys(adds))
    kept = [name for name in DEFAULT if name not in drops and name in available()]
    return tuple(dict.fromkeys([*kept, *adds]))
