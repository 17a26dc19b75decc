"""Update: change the limits and the restart policy of a container, running or not.

The runtime applies the limits before the record changes. If the runtime refuses a limit, the record and the container stay
unchanged.
"""

from __future__ import annotations

from msgspec.structs import fields, replace

from orlop_engine import commands
from orlop_engine.calls import asked
from orlop_engine.spec import resources
from orlop_engine.spec.host import facts
from orlop_engine.types.containers import HostConfig, Resources, UpdateRequest
from orlop_sdk import Conflict, InvalidParameter

from . import limits, restarts
from .container import Container
from .ports import Ports
from .runtime import task

__all__ = ["merge", "update"]

_CHANGEABLE = (
    "blkio_weight",
    "cpu_shares",
    "nano_cpus",
    "cpu_period",
    "cpu_quota",
    "cpuset_cpus",
    "cpuset_mems",
    "memory",
    "memory_swap",
    "memory_reservation",
    "cpu_realtime_period",
    "cpu_realtime_runtime",
    "pids_limit",
)
_DEVICES = (
    "blkio_weight_device",
    "blkio_device_read_bps",
    "blkio_device_write_bps",
    "blkio_device_read_iops",
    "blkio_device_write_iops",
)
"""Lists of limits by device. In a request, null leaves the limits unchanged, and an empty list removes them."""
_CONFLICTS = (
    ("nano_cpus", "cpu_period", "Nano CPUs cannot be updated as CPU Period has already been set"),
    ("nano_cpus", "cpu_quota", "Nano CPUs cannot be updated as CPU Quota has already been set"),
    ("cpu_period", "nano_cpus", "CPU Period cannot be updated as NanoCPUs has already been set"),
    ("cpu_quota", "nano_cpus", "CPU Quota cannot be updated as NanoCPUs has already been set"),
)


def merge(host: HostConfig, request: UpdateRequest) -> HostConfig:
    """The host configuration `host` with the request's changes. Raises `Conflict` with Docker's messages, and
    `InvalidParameter` for a setting that cannot change after the create."""
    for field in fields(Resources):
        if field.name not in (*_CHANGEABLE, *_DEVICES) and getattr(request, field.name):
            raise InvalidParameter(
                f"cannot update {field.encode_name}: the value cannot change after the container is created"
            )
    for wanted, stored, text in _CONFLICTS:
        if getattr(request, wanted) > 0 and getattr(host, stored) > 0:
            raise Conflict(f"Conflicting options: {text}")
    if request.memory and not request.memory_swap and -1 != host.memory_swap < request.memory:
        raise Conflict(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time"
        )
    changed = {name: value for name in _CHANGEABLE if (value := getattr(request, name))}
    changed |= {name: value or None for name in _DEVICES if (value := getattr(request, name)) is not None}
    if request.pids_limit is not None:
        changed["pids_limit"] = max(request.pids_limit, 0)  # inspect shows 0 for "no limit", however the client wrote it
    policy = request.restart_policy
    if policy is not None and policy.name:
        restarts.check(policy, auto_remove=False)
        if host.auto_remove and policy.name != "no":
            raise Conflict("Restart policy cannot be updated because AutoRemove is enabled for the container")
        changed["restart_policy"] = policy
    return replace(host, **changed)


async def update(ports: Ports, container: Container, request: UpdateRequest) -> list[str]:
    """Apply the request and return warnings."""
    warnings = limits.check(request, facts(), update=True)
    async with container.lock:
        record = container.record
        if record.removing or record.state.dead:
            raise Conflict(f"Cannot update container {container.id}: container is marked for removal and cannot be updated")
        after = merge(record.host_config, request)
        if record.state.running and not record.state.restarting:
            await _apply(ports, container, request)
        async with ports.rows.change(container) as draft:
            draft.host_config = after
    ports.events.publish(container, "update")
    return warnings


async def _apply(ports: Ports, container: Container, request: UpdateRequest) -> None:
    wanted = resources.of(request)
    del wanted["devices"]
    if request.pids_limit is not None and request.pids_limit <= 0:
        wanted["pids"] = {"limit": -1}
    if not wanted:
        return
    runtime = await ports.drivers.runtime(*container.record.runtime)
    command = await asked(runtime.update, task(ports.paths, container), wanted)
    await commands.check(command, f"update container {container.id}")
