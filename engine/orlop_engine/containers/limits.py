"""Resource limits of a container. Invalid values are refused with Docker's messages; limits that this host does not support
are discarded with a warning. The functions do no I/O and get the facts about the host as an argument.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import UNSET

from orlop_engine.spec.host import Host
from orlop_engine.types.containers import Resources
from orlop_sdk import InvalidParameter

__all__ = ["check"]

_SMALLEST_MEMORY = 6 << 20
_LIST_TEXT = 4096  # the kernel accepts at most one page of text
_RLIMITS = frozenset(
    "as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack".split()
)


def check(given: Resources, facts: Host, *, update: bool = False) -> list[str]:
    """Fill in Docker's defaults (MemorySwap), reset discarded limits, and return the warnings. `update` is true for a
    request that changes limits of an existing container: limits that the request does not contain stay unchanged."""
    return [
        *_memory(given, facts, update),
        *_cpu(given, facts),
        *_block_io(given, facts),
        *_devices(given),
        *_elsewhere(given),
    ]


def _memory(given: Resources, facts: Host, update: bool) -> list[str]:
    memory, swap, reservation = given.memory, given.memory_swap, given.memory_reservation
    if memory and memory < _SMALLEST_MEMORY:
        raise InvalidParameter("Minimum memory limit allowed is 6MB")
    if swap > 0 and not memory and not update:
        raise InvalidParameter("You should always set the Memory limit when using Memoryswap limit, see usage")
    if 0 < swap < memory:
        raise InvalidParameter("Minimum memoryswap limit should be larger than memory limit, see usage")
    if given.memory_swappiness is not None and not -1 <= given.memory_swappiness <= 100:
        raise InvalidParameter(f"Invalid value: {given.memory_swappiness}, valid memory swappiness range is 0-100")
    if memory and reservation > memory:
        raise InvalidParameter("Minimum memory limit can not be less than memory reservation limit, see usage")
    if reservation and reservation < _SMALLEST_MEMORY:
        raise InvalidParameter("Minimum memory reservation allowed is 6MB")
    warnings = []
    if memory and swap >= 0 and not facts.swap_limit and not update:
        warnings.append(
            "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap."
        )
        given.memory_swap = -1
    elif memory and not swap and not update:
        given.memory_swap = 2 * memory
    if given.memory_swappiness is not None and given.memory_swappiness >= 0 and facts.cgroup_version == 2:
        warnings.append("Your kernel does not support memory swappiness capabilities. Memory swappiness discarded.")
        given.memory_swappiness = None
    if given.oom_kill_disable and facts.cgroup_version == 2:
        warnings.append("Your kernel does not support OomKillDisable. OomKillDisable discarded.")
        given.oom_kill_disable = None
    if given.oom_kill_disable and not memory:
        warnings.append(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running "
            "out of resources."
        )
    return warnings


def _cpu(given: Resources, facts: Host) -> list[str]:
    if given.nano_cpus:
        if given.cpu_period or given.cpu_quota:
            raise InvalidParameter("Conflicting options: Nano CPUs and CPU Period cannot both be set")
        if not 0 < given.nano_cpus <= facts.cpus * 1_000_000_000:
            raise InvalidParameter(
                f"range of CPUs is from 0.01 to {facts.cpus:.2f}, as there are only {facts.cpus} CPUs available"
            )
    if given.cpu_period and not 1000 <= given.cpu_period <= 1_000_000:
        raise InvalidParameter("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
    if given.cpu_quota and 0 < given.cpu_quota < 1000:
        raise InvalidParameter("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    if given.cpu_shares < 0:
        raise InvalidParameter(f"invalid CPU shares ({given.cpu_shares}): value must be a positive integer")
    if given.cpu_realtime_period or given.cpu_realtime_runtime:
        if not facts.realtime:
            raise InvalidParameter("Your kernel does not support CPU real-time scheduler")
        if 0 < given.cpu_realtime_period < given.cpu_realtime_runtime:
            raise InvalidParameter("cpu real-time runtime cannot be higher than cpu real-time period")
    _available(given.cpuset_cpus, facts.cpuset_cpus, "cpus", "CPUs")
    _available(given.cpuset_mems, facts.cpuset_mems, "mems", "memory nodes")
    return []


def _ranges(text: str) -> Iterator[range]:
    """The numbers in a list in the kernel's format, such as 0-3,6. Raises ValueError."""
    if len(text) > _LIST_TEXT:
        raise ValueError("too long")
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        low, high = int(first), int(last if dash else first)
        if not 0 <= low <= high < 8192:
            raise ValueError(part)
        yield range(low, high + 1)


def _available(wanted: str, present: str, field: str, what: str) -> None:
    if not wanted:
        return
    try:
        ranges = list(_ranges(wanted))
    except ValueError:
        shown = wanted[:_LIST_TEXT]
        raise InvalidParameter(f"Invalid value {shown} for cpuset {field}: invalid format: {shown}") from None
    available = {number for numbers in _ranges(present) for number in numbers}
    if not all(available.issuperset(numbers) for numbers in ranges):  # stops at the first number that is not available
        raise InvalidParameter(f"Requested {what} are not available - requested {wanted}, available: {present}")


def _block_io(given: Resources, facts: Host) -> list[str]:
    if given.blkio_weight and not 10 <= given.blkio_weight <= 1000:
        raise InvalidParameter("Range of blkio weight is from 10 to 1000")
    for item in given.blkio_weight_device or ():
        if not 10 <= item.weight <= 1000:
            raise InvalidParameter("Range of blkio weight is from 10 to 1000")
    warnings = []
    unsupported = "Your kernel does not support Block I/O {} or the cgroup is not mounted. {} discarded."
    if given.blkio_weight and not facts.blkio_weight:
        warnings.append(unsupported.format("weight", "Weight"))
        given.blkio_weight = 0
    if given.blkio_weight_device and not facts.blkio_weight:
        warnings.append(unsupported.format("weight_device", "Weight-device"))
        given.blkio_weight_device = None
    return warnings


def _devices(given: Resources) -> list[str]:
    for device in given.devices or ():
        if not set(device.cgroup_permissions) <= set("rwm"):
            raise InvalidParameter(f"invalid device mode: {device.cgroup_permissions}")
    for limit in given.ulimits or ():
        if limit.name not in _RLIMITS:
            raise InvalidParameter(f"invalid ulimit type: {limit.name}")
        if limit.hard != -1 and (limit.soft == -1 or limit.soft > limit.hard):
            raise InvalidParameter(
                f"ulimit soft limit must be less than or equal to hard limit: {limit.name}={limit.soft}:{limit.hard}"
            )
    return []


def _elsewhere(given: Resources) -> list[str]:
    """Warnings about fields that Linux does not support or no longer supports."""
    if given.io_maximum_iops:
        raise InvalidParameter("Invalid QoS settings: linux does not support configuration of maximum IOPs")
    if given.io_maximum_bandwidth:
        raise InvalidParameter("Invalid QoS settings: linux does not support configuration of maximum bandwidth")
    warnings = []
    for field, name in (("cpu_count", "CpuCount"), ("cpu_percent", "CpuPercent")):
        if getattr(given, field):
            warnings.append(f"{name} is a limit of Windows only. {name} discarded.")
            setattr(given, field, 0)
    for field, name in (("kernel_memory", "KernelMemory"), ("kernel_memory_tcp", "KernelMemoryTCP")):
        if getattr(given, field):
            warnings.append(f"Linux no longer supports limits of kernel memory. {name} discarded.")
            setattr(given, field, UNSET)
    return warnings
