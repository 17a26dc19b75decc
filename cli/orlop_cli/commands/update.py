"""`orlop update`."""

from __future__ import annotations

from orlop_cli._command import command, each, fail, option
from orlop_cli._errors import UsageProblem
from orlop_cli.daemon.client import segment
from orlop_cli.values.types import BYTES, CPUS, INT, SWAP

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from typing import Any

    from orlop_cli._session import Session


_KEYS = {
    "blkio_weight": "BlkioWeight",
    "cpu_period": "CpuPeriod",
    "cpu_quota": "CpuQuota",
    "cpu_rt_period": "CpuRealtimePeriod",
    "cpu_rt_runtime": "CpuRealtimeRuntime",
    "cpu_shares": "CpuShares",
    "cpus": "NanoCpus",
    "cpuset_cpus": "CpusetCpus",
    "cpuset_mems": "CpusetMems",
    "memory": "Memory",
    "memory_reservation": "MemoryReservation",
    "memory_swap": "MemorySwap",
    "pids_limit": "PidsLimit",
}


@command(
    "update",
    "Update configuration of one or more containers",
    usage="CONTAINER [CONTAINER...]",
    least=1,
    most=None,
    examples=["orlop update -m 512m --memory-swap 1g db", "orlop update --restart unless-stopped web db"],
)
@option("--blkio-weight", type=INT, help="Block IO (relative weight), between 10 and 1000, or 0 to disable")
@option("--cpu-period", type=INT, help="Limit CPU CFS (Completely Fair Scheduler) period")
@option("--cpu-quota", type=INT, help="Limit CPU CFS (Completely Fair Scheduler) quota")
@option("--cpu-rt-period", type=INT, help="Limit the CPU real-time period in microseconds")
@option("--cpu-rt-runtime", type=INT, help="Limit the CPU real-time runtime in microseconds")
@option("-c", "--cpu-shares", type=INT, help="CPU shares (relative weight)")
@option("--cpus", type=CPUS, help="Number of CPUs")
@option("--cpuset-cpus", metavar="string", help="CPUs in which to allow execution (0-3, 0,1)")
@option("--cpuset-mems", metavar="string", help="MEMs in which to allow execution (0-3, 0,1)")
@option("-m", "--memory", type=BYTES, help="Memory limit")
@option("--memory-reservation", type=BYTES, help="Memory soft limit")
@option("--memory-swap", type=SWAP, help="Swap limit equal to memory plus swap: -1 to enable unlimited swap")
@option("--pids-limit", type=INT, help="Tune container pids limit (set -1 for unlimited)")
@option("--restart", metavar="string", help="Restart policy to apply when a container exits")
def update(session: Session, args: tuple[str, ...], restart: str | None, **given: Any) -> None:
    body = {_KEYS[name]: value for name, value in given.items() if value is not None}
    if restart is not None:
        from orlop_cli.create.body import restart_policy

        try:
            body["RestartPolicy"] = restart_policy(restart)
        except UsageProblem as problem:
            fail(problem.message)
    if not body:
        fail("you must provide one or more flags when using this command")
    warnings: list[str] = []

    def one(name: str) -> None:
        answer = session.engine.post(f"/containers/{segment(name)}/update", body=body)
        warnings.extend((answer or {}).get("Warnings") or ())

    try:
        each(args, one)
    finally:
        for warning in warnings:
            print(warning)
